/** What the page costs and how fast it is: the strip above the folder, and the switch of the streamer. */
import type { State } from '../../src/client/connection.ts'

/** Requests are counted over the last so many ms. */
const WINDOW_MS = 60_000

export class Strip {
  readonly #base: string
  readonly #button: HTMLButtonElement
  readonly #cells = new Map<string, HTMLElement>()
  /** When each request of the last WINDOW_MS began, oldest first. */
  readonly #recent: number[] = []
  #requests = 0
  #sockets = 0
  #state: State = 'idle'
  /** Everything up to the head has arrived; a poll that asks then waits. */
  isCaughtUp = false
  seq = 0
  events = 0
  /** From an event's own time to its arrival here, ms. */
  delay: number | undefined

  /** @param base address below which the calls stand. */
  constructor(base: string, button: HTMLButtonElement) {
    this.#base = base
    this.#button = button
    for (const cell of document.querySelectorAll<HTMLElement>('[data-shows]'))
      this.#cells.set(cell.dataset.shows!, cell)
    new PerformanceObserver((list) => {
      for (const { name, startTime } of list.getEntries()) if (name.startsWith(`${base}/`)) this.#asked(startTime)
    }).observe({ type: 'resource', buffered: true })
    button.addEventListener('click', () => void this.#press())
    void this.#askSwitch()
  }

  /** The class that the client opens its sockets with: no list of the browser's tells of these. */
  countedSockets(): typeof WebSocket {
    const opened = () => {
      this.#sockets++
      this.#asked(performance.now())
    }
    return class extends WebSocket {
      constructor(url: string | URL, protocols?: string | string[]) {
        super(url, protocols)
        opened()
      }
    }
  }

  #asked(at: number): void {
    this.#requests++
    this.#recent.push(at)
    this.#forgetOld()
  }

  #forgetOld(): void {
    const since = performance.now() - WINDOW_MS
    while (this.#recent[0]! < since) this.#recent.shift()
  }

  turned(state: State): void {
    this.#state = state
    // The switch may have been turned elsewhere: a socket that opened says so, after any other change the server does.
    if (state === 'open') this.#show(true)
    else if (state === 'polling') void this.#askSwitch()
  }

  async #press(): Promise<void> {
    const on = this.#button.getAttribute('aria-checked') !== 'true'
    await this.#call({
      method: 'PUT',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ on }),
    })
  }

  #askSwitch(): Promise<void> {
    return this.#call({})
  }

  async #call(init: RequestInit): Promise<void> {
    try {
      const response = await fetch(`${this.#base}/admin/streamer`, { ...init, cache: 'no-store' })
      if (response.ok) this.#show(((await response.json()) as { on: boolean }).on)
    } catch (error) {
      // Nobody answers: the client's state tells so, and the switch stays as it is known.
      if (!(error instanceof TypeError)) throw error
    }
  }

  #show(on: boolean): void {
    this.#button.setAttribute('aria-checked', String(on))
    this.#button.disabled = false
  }

  /** @param paths how many the folder holds. */
  draw(paths: number): void {
    this.#forgetOld()
    this.#tell('transport', this.#transport())
    this.#tell('seq', this.seq.toLocaleString())
    this.#tell('events', this.events.toLocaleString())
    this.#tell('paths', paths.toLocaleString())
    this.#tell('requests', (this.#requests - this.#sockets).toLocaleString())
    this.#tell('sockets', this.#sockets.toLocaleString())
    this.#tell('recent', this.#recent.length.toLocaleString())
    this.#tell('delay', this.delay === undefined ? '–' : `${Math.max(0, this.delay).toLocaleString()} ms`)
  }

  #transport(): string {
    switch (this.#state) {
      case 'open':
        return 'WebSocket'
      case 'polling':
        return this.isCaughtUp ? 'long poll' : 'polling'
      case 'waiting':
        return 'waiting'
      case 'closed':
        return 'closed'
      default:
        return 'connecting'
    }
  }

  #tell(what: string, text: string): void {
    const cell = this.#cells.get(what)
    if (cell && cell.textContent !== text) cell.textContent = text
  }
}
