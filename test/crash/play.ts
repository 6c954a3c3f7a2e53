/**
 * The process whose every call is recorded, or is its last: it plays a scene on a log, a few appends at a time, and says
 * before and after each step that it takes it. LevelDB's files are as small as they can be, so that it goes through many.
 *
 *   node play.js DIR SEED LENGTH      lines: {"ask": n} · {"done": n} · {"wrong": …}
 */
import { openLog } from '../../src/log/open.ts'
import { bodyOf, type Step, sceneOf } from './scene.ts'
import { tell } from './telling.ts'

const [dir, seed, length] = [process.argv[2]!, Number(process.argv[3]), Number(process.argv[4])]
const options = { dir, writeBufferBytes: 64 * 1024 }
/** Most appends that share a group. */
const TOGETHER = 4

let log = await openLog(options)

async function take(step: Step): Promise<void> {
  tell({ ask: step.n })
  if (step.do === 'append') {
    const entries = step.entries.map((entry) => ({ channel: entry.channel, body: bodyOf(step.n, entry) }))
    const answers = await log.append(entries, step.key === undefined ? {} : { idempotencyKey: step.key })
    const isWrong = answers.some(({ first, last }, i) => {
      const entry = step.entries[i]!
      return first !== entry.first || last !== entry.last
    })
    if (isWrong) tell({ wrong: step.n, answers })
  } else if (step.do === 'commit') await log.commit(step.client, step.at.channel, { seq: step.at.last })
  else if (step.do === 'trim') await log.trim(step.at.channel, step.at.last)
  else if (step.do === 'delete') await log.delete(step.channel)
  else {
    await log.close()
    log = await openLog(options)
  }
  tell({ done: step.n })
}

let together: Promise<void>[] = []
for (const step of sceneOf(seed, length)) {
  // Appends are given their seqs in the order in which they come; all else is taken alone.
  if (step.do !== 'append') await Promise.all(together.splice(0))
  together.push(take(step))
  if (step.do !== 'append' || together.length >= 1 + ((seed + step.n) % TOGETHER)) {
    await Promise.all(together)
    together = []
  }
}
await Promise.all(together)
await log.close()
