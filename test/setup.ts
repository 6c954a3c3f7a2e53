import { execFileSync } from 'node:child_process'
import { provide } from './machine.ts'

/** Told to the other projects of the same run, each of which loads this file anew. */
const DONE = 'TIDEMARK_SET_UP'

/** Once before all tests: the machine's programs, and a build of what tests start as processes of their own. */
export default function setup(): void {
  if (process.env[DONE]) return
  process.env[DONE] = 'yes'
  provide()
  execFileSync(process.execPath, ['tools/build.mjs', '--if-changed'], { stdio: ['ignore', 'inherit', 'inherit'] })
}
