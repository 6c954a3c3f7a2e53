import { execFileSync } from 'node:child_process'

/** Once before all tests: builds what tests start as processes of their own. */
export default function setup(): void {
  if (process.env.TIDEMARK_BUILD === 'skip') return console.log('dist/ is used as it is (TIDEMARK_BUILD=skip)')
  execFileSync(process.execPath, ['tools/build.mjs'], { stdio: ['ignore', 'inherit', 'inherit'] })
}
