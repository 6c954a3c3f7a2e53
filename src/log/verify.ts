/**
 * Verification: whether everything that a log acknowledged is there and is what was written. A function over the port,
 * so that a running log of any engine can be asked; what only the engine can check of itself (files, rows, the log of
 * a stopped process) gives the same report.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { readHeader } from '../block.ts'
import { sameHistory } from '../epoch.ts'
import { hasCode, type TidemarkError } from '../errors.ts'
import type { ChannelInfo, Finding, Log, Loss } from './log.ts'

export interface Report {
  /** True without any finding. Losses that are known already are no finding. */
  readonly whole: boolean
  readonly channels: number
  readonly blocks: number
  readonly events: number
  readonly bytes: number
  readonly cursors: number
  readonly findings: readonly Finding[]
  readonly losses: readonly Loss[]
}

/** A report while it is made. */
export class Tally {
  channels = 0
  blocks = 0
  events = 0
  bytes = 0
  cursors = 0
  readonly findings: Finding[] = []
  readonly losses: Loss[] = []

  find(part: Finding['part'], detail: string, where: Omit<Finding, 'code' | 'part' | 'detail'> = {}): void {
    if (this.findings.length < FINDINGS_MAX) this.findings.push({ code: 'data-loss', part, ...where, detail })
  }

  /** Events that are not there: a finding, unless it is known. */
  lose(channel: string, after: number, upTo: number, known: readonly Loss[], detail = 'damaged or missing'): void {
    const loss = known.find((loss) => loss.channel === channel && loss.after <= after && upTo <= loss.upTo)
    if (loss) this.losses.push({ channel, after, upTo })
    else this.find('events', detail, { channel, after, upTo })
  }

  report(): Report {
    const { channels, blocks, events, bytes, cursors, findings, losses } = this
    return { whole: findings.length === 0, channels, blocks, events, bytes, cursors, findings, losses }
  }
}

/** Most findings of one report: enough to know that it is time for `salvage`. */
const FINDINGS_MAX = 10_000
/** Of one page, bytes; what a read takes of the process at once. */
const PAGE_BYTES = 256 * 1024
const PAGE_EVENTS = 2_000
const NOTHING_TO_SAY = (): void => {}

export interface VerifyOptions {
  /** Most bytes a second that are read. Default: as fast as it goes between other work. */
  readonly rate?: number
  readonly signal?: AbortSignal
  /** Told of how far it is. */
  readonly onProgress?: (done: { readonly channel: string; readonly bytes: number }) => void
}

/** Reads every channel and cursor of a running log, and lets the engine look at its own files. */
export async function verifyLog(log: Log, options: VerifyOptions = {}): Promise<Report> {
  const { onProgress = NOTHING_TO_SAY } = options
  const tally = new Tally()
  const pace = pacer(options)
  const known = (await log.losses?.()) ?? []
  // An engine that looks at its own files tells more of them.
  const onDamaged = (channel: string): void =>
    tally.find('head', 'The newest of the channel can not be read', { channel })
  for await (const info of log.channels('', '', log.scrub ? undefined : onDamaged)) {
    tally.channels++
    await verifyChannel(log, info, tally, known, async (bytes) => {
      onProgress({ channel: info.channel, bytes: tally.bytes })
      await pace(bytes)
    })
  }
  for await (const finding of log.scrub?.(pace) ?? []) tally.find(finding.part, finding.detail, finding)
  return tally.report()
}

/** Reads on after each loss, and goes on wherever trims and deletes of the meantime leave it. */
async function verifyChannel(
  log: Log,
  { channel, epoch: begun, trimmed, head }: ChannelInfo,
  tally: Tally,
  known: readonly Loss[],
  pace: (bytes: number) => Promise<void>,
): Promise<void> {
  let epoch = begun
  for (let after = trimmed; after < head; )
    try {
      const page = await log.read(channel, { epoch, after }, { events: PAGE_EVENTS, bytes: PAGE_BYTES })
      let bytes = 0
      for (const block of page.blocks) {
        bytes += block.length
        tally.events += readHeader(block).count
      }
      tally.blocks += page.blocks.length
      tally.bytes += bytes
      after = page.last
      await pace(bytes)
    } catch (error) {
      if (hasCode(error, 'no-channel')) return
      if (hasCode(error, 'epoch-changed')) {
        const now = String((error as TidemarkError).details.epoch)
        // What lies between is as it was: only tombstones are about to go.
        if (!sameHistory(now, epoch)) return
        epoch = now
      } else if (hasCode(error, 'gap')) after = Number((error as TidemarkError).details.trimmed)
      else if (hasCode(error, 'data-loss') && typeof (error as TidemarkError).details.upTo === 'number') {
        const upTo = (error as TidemarkError).details.upTo as number
        tally.lose(channel, after, upTo, known)
        after = upTo
      } else throw error
    }
  try {
    for await (const cursor of log.cursors({ channel })) {
      tally.cursors++
      // Of this history, and moved while nobody looked: the head moved before it.
      if (!sameHistory(cursor.epoch, epoch) || cursor.seq <= head) continue
      const now = await log.info(channel)
      if (sameHistory(now.epoch, cursor.epoch) && cursor.seq > now.head)
        tally.find('cursor', `it stands at ${cursor.seq}, the head is ${now.head}`, { channel, client: cursor.client })
    }
  } catch (error) {
    if (!hasCode(error, 'no-channel')) throw error
  }
}

/** Waits so that no more than `rate` bytes a second are read, and lets other work go on in any case. */
function pacer({ rate, signal }: VerifyOptions): (bytes: number) => Promise<void> {
  const started = performance.now()
  let total = 0
  let sinceTurn = 0
  return async (bytes) => {
    total += bytes
    sinceTurn += bytes
    if (sinceTurn < PAGE_BYTES) return
    sinceTurn = 0
    signal?.throwIfAborted()
    const ahead = rate === undefined ? 0 : (total / rate) * 1_000 - (performance.now() - started)
    await delay(Math.max(0, ahead), undefined, signal && { signal })
  }
}
