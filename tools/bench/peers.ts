/**
 * Other servers that do a part of what Tidemark does, measured with the same programs and the same events: which ones
 * there are, and how they are made ready.
 */
import { durablePeers } from './durable.ts'
import { natsPeers } from './nats.ts'
import { nchanPeers } from './nchan.ts'
import type { Peer } from './peer.ts'
import { redisPeers } from './redis.ts'
import { socketIoPeers } from './socketio.ts'

const PEERS: Readonly<Record<string, () => Promise<readonly Peer[]>>> = {
  redis: redisPeers,
  nats: natsPeers,
  nchan: nchanPeers,
  socketio: socketIoPeers,
  ds: durablePeers,
}

/** Of what apt or npm says when it fails. */
const REASON_LINES = 3

export const PEER_NAMES: readonly string[] = Object.keys(PEERS)

/**
 * The names of a list with commas.
 * @throws Error with a text for who gave the list
 */
export function peerNames(list: string): readonly string[] {
  const names = list.split(',').filter((name) => name !== '')
  const unknown = names.find((name) => !(name in PEERS))
  if (unknown !== undefined) throw new Error(`no peer ${unknown}: there are ${PEER_NAMES.join(', ')}`)
  return names
}

/** Fetches what is not there yet. A peer that can't be had is named in `missing`, and why; the others are there. */
export async function preparePeers(names: readonly string[]): Promise<{ peers: Peer[]; missing: string[] }> {
  const peers: Peer[] = []
  const missing: string[] = []
  // One after the other: apt and npm each work alone.
  for (const name of names)
    try {
      peers.push(...(await PEERS[name]!()))
    } catch (error) {
      missing.push(whyMissing(name, error))
    }
  return { peers, missing }
}

/** In words, with the end of what apt or npm said. */
export function whyMissing(name: string, error: unknown): string {
  const { message, stderr } = error as Error & { stderr?: string }
  return `${name} can't be had: ${(stderr || message).trim().split('\n').slice(-REASON_LINES).join('\n    ')}`
}
