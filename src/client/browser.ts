/** What a page gets from /client.js: `import { Tidemark } from 'http://127.0.0.1:7070/client.js'`. */
import { sameHistory } from '../epoch.ts'
import { Tidemark as Client, type TidemarkOptions } from './client.ts'
import { load, loadPolls } from './parts.ts'

export { TidemarkError } from '../errors.ts'
export type { Channel } from './client.ts'

/** What polling takes is loaded so long after the start, ms: the page is there by then, and a fallback finds it. */
const SOON_MS = 1_000

/** The client. The tabs of an origin share one waiting poll, where they have to poll. */
export class Tidemark extends Client {
  /** @throws bad-request */
  constructor(url: string | URL, options?: TidemarkOptions) {
    super(url, options, async (...of) => (await load('bell', () => import('./bell.ts'))).newBell(sameHistory, ...of))
    setTimeout(
      () =>
        loadPolls().catch(() => {
          // Asked for again when it is needed.
        }),
      SOON_MS,
    )
  }
}
