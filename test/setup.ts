import { execFileSync } from 'node:child_process'
import { provide } from './machine.ts'

/** Once before all tests, though every project asks: the machine's programs, and a build of what tests start as processes. */
export default function setup(): void {
  if (isDone) return
  isDone = true
  provide()
  if (process.env.TIDEMARK_BUILD === 'skip') console.log('dist/ is used as it is (TIDEMARK_BUILD=skip)')
  else execFileSync(process.execPath, ['tools/build.mjs'], { stdio: ['ignore', 'inherit', 'inherit'] })
}

let isDone = false
