/**
 * The way to the router, which is loaded when the server serves already: what it is made of takes longer to load than
 * all the rest of a start, and those who come back after one follow, append and probe, which goes without it.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { App } from './app.ts'

/** How long after the start the router is loaded, if no call wants it before, ms. */
const LOAD_AFTER_MS = 1_000

export class Router {
  readonly #make: () => Promise<App>
  readonly #fail: (req: IncomingMessage, res: ServerResponse, error: unknown) => void
  #app: App | undefined
  #loading: Promise<App> | undefined
  #timer: NodeJS.Timeout | undefined

  /** @param fail answers a call that a router that can not be loaded does not answer */
  constructor(make: () => Promise<App>, fail: (req: IncomingMessage, res: ServerResponse, error: unknown) => void) {
    this.#make = make
    this.#fail = fail
  }

  readonly route = (req: IncomingMessage, res: ServerResponse): void => {
    if (this.#app) {
      this.#app.routing(req, res)
      return
    }
    this.#load()
      // Whoever hung up meanwhile is gone.
      .then((app) => res.destroyed || app.routing(req, res))
      .catch((error: unknown) => this.#fail(req, res, error))
  }

  /** Loads it soon: a package that is replaced under a running server must not be missed by its first such call. */
  loadSoon(onFailed: (error: unknown) => void): void {
    this.#timer = setTimeout(() => this.#load().catch(onFailed), LOAD_AFTER_MS).unref()
  }

  async close(): Promise<void> {
    clearTimeout(this.#timer)
    // Its failure was told to those who asked for it.
    const app = await this.#loading?.catch(() => undefined)
    await app?.close()
  }

  #load(): Promise<App> {
    this.#loading ??= this.#make().then((app) => {
      this.#app = app
      return app
    })
    return this.#loading
  }
}
