/** W6: from starting the program to its first answer, with many events stored; after a clean end and after kill -9. */
import { join } from 'node:path'
import { HOME } from '../../src/server/home.ts'
import { Child } from './child.ts'
import type { Measure } from './figures.ts'
import { fill, headCount } from './fill.ts'
import { grouped, type Lab } from './lab.ts'
import { removeDir, startTidemark } from './target.ts'

const CHANNEL = 'bench'
const BOOT = 'node -e 0'
const IMPORTS = 'node + node:http, level, ws'

export const title = (lab: Lab): string => `W6  restart to the first answer, ${grouped(lab.scale.stored)} stored events`

export async function* run(lab: Lab): AsyncGenerator<Measure> {
  const dir = lab.newDir()
  const data = join(dir, 'log')
  let target = await startTidemark({ data })
  let stored = (await fill(lab, target, CHANNEL, lab.scale.stored)).events
  for (const [name, signal] of [
    ['after kill -9', 'SIGKILL'],
    ['after a clean end', 'SIGTERM'],
  ] as const) {
    // Something newly appended stands in LevelDB's log each time, so that there is something to recover.
    stored += (await fill(lab, target, CHANNEL, lab.scale.batch * lab.scale.producers)).events
    await target.child.stop(signal)
    const started = performance.now()
    target = await startTidemark({ data })
    const ms = performance.now() - started
    yield {
      name,
      subject: 'tidemark',
      figure: ms,
      unit: 'ms',
      durability: 'fsync',
      limits: [BOOT, IMPORTS],
      counts: [await headCount(target, CHANNEL, stored, 'events in the log after the restart')],
    }
  }
  await target.child.stop('SIGKILL')
  removeDir(dir)
  yield await lifetime(BOOT, ['-e', '0'])
  yield await lifetime(IMPORTS, ['--input-type=module', '-e', "import 'node:http'; import 'level'; import 'ws'"])
}

/** From the start of a node process to its end. */
async function lifetime(name: string, args: readonly string[]): Promise<Measure> {
  const started = performance.now()
  const child = Child.start(name, [process.execPath, ...args], process.env, HOME)
  await child.ended()
  return { name, subject: 'limit', figure: performance.now() - started, unit: 'ms', durability: '-' }
}
