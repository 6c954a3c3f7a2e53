import { execFileSync } from 'node:child_process'
import { provide } from './machine.ts'

/** Once before all tests: the machine's programs, and a build of what tests start as processes of their own. */
export default function setup(): void {
  provide()
  if (process.env.TIDEMARK_BUILD === 'skip') console.log('dist/ is used as it is (TIDEMARK_BUILD=skip)')
  else execFileSync(process.execPath, ['tools/build.mjs'], { stdio: ['ignore', 'inherit', 'inherit'] })
}
