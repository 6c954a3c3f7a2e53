import { execFileSync } from 'node:child_process'
import { provide } from './machine.ts'

/** Once before all tests: the machine's programs, and a build of what tests start as processes of their own. */
export default function setup(): void {
  provide()
  execFileSync(process.execPath, ['tools/build.mjs', '--if-changed'], { stdio: ['ignore', 'inherit', 'inherit'] })
}
