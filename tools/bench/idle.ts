/** W5: what a socket costs that follows a channel in which nothing happens. */

import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Measure } from './figures.ts'
import { grouped, type Lab } from './lab.ts'
import { subscription } from './requests.ts'
import { makeChannel, removeDir, startBare, startTidemark, type Target } from './target.ts'

const CHANNEL = 'bench'
/** Sockets that come and go before the first look, so that code which is loaded with the first is not counted. */
const FIRST_SOCKETS = 50
/** Allows a server to collect garbage when it is told to. */
const NODE = ['--expose-gc', '--import', fileURLToPath(new URL('./collect.js', import.meta.url))]

export const title = (): string => 'W5  resident memory per idle subscriber, after collecting garbage'

export async function* run(lab: Lab): AsyncGenerator<Measure> {
  for (const sockets of lab.scale.idle) {
    const [name, bareName] = [`WebSocket JSON, ${grouped(sockets)} sockets`, `bare ws, ${grouped(sockets)} sockets`]
    if (lab.wants(name)) {
      const dir = lab.newDir()
      const target = await startTidemark({ data: join(dir, 'log'), node: NODE })
      await makeChannel(target.port, CHANNEL)
      yield { ...(await measure(lab, target, sockets)), name, subject: 'tidemark', limits: [bareName] }
      await target.child.stop('SIGKILL')
      removeDir(dir)
    }
    if (lab.wants(bareName)) {
      const dir = lab.newDir()
      const target = await startBare('ws', dir, NODE)
      yield { ...(await measure(lab, target, sockets)), name: bareName, subject: 'limit' }
      await target.child.stop('SIGKILL')
      removeDir(dir)
    }
  }
}

async function measure(
  lab: Lab,
  target: Target,
  sockets: number,
): Promise<Pick<Measure, 'figure' | 'unit' | 'durability' | 'facts'>> {
  const open = (connections: number) =>
    lab.drive.drain({
      port: target.port,
      connections,
      mode: 'ws',
      opening: subscription(target.port, 'json', CHANNEL, 'head'),
      ready: 'caughtup',
    })
  await (await open(Math.min(FIRST_SOCKETS, sockets))).stop()
  const before = await residentBytes(target)
  const drain = await open(sockets)
  const after = await residentBytes(target)
  await drain.stop()
  return {
    figure: (after - before) / sockets,
    unit: 'B/socket',
    durability: '-',
    facts: { residentBefore: before, residentAfter: after },
  }
}

async function residentBytes(target: Target): Promise<number> {
  target.child.signal('SIGWINCH')
  await target.child.json('collected')
  return target.child.usage()?.rss ?? Number.NaN
}
