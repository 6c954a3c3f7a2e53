/** The page of the live folder, in the browser: the newest event of each path, then whatever comes, is the whole folder. */
import type { Tidemark } from '../../src/client/browser.ts'
import type { ChannelEvent, Item } from '../../src/client/subscription.ts'
import { ADDED, nameOf, parentOf, REMOVED } from '../watch/tree.ts'
import { type Changes, Folder } from './folder.ts'
import { Rows } from './rows.ts'
import { Strip } from './strip.ts'

/** The strip is drawn anew so often without any event, ms: what it counts grows old. */
const STRIP_MS = 1_000
const NOTHING: Changes = { added: new Map(), changed: new Set(), removed: new Map(), moved: new Map() }

const { server, path, channel } = document.documentElement.dataset as Record<'server' | 'path' | 'channel', string>
const byId = <E extends HTMLElement>(id: string): E => document.getElementById(id) as E
const folder = new Folder()
const strip = new Strip(server + path, byId('streamer'))
const rows = new Rows(byId('tree'), folder, () => draw())
const latest = byId<HTMLButtonElement>('latest')

/** What happened last, and whether the page had the whole folder by then: what it began with is no news. */
let news: ChannelEvent | undefined
let wasWhole = false

let isDrawing = false

/** However much arrives, the page is drawn once a frame. */
function draw(): void {
  if (isDrawing) return
  isDrawing = true
  requestAnimationFrame(() => {
    isDrawing = false
    const changes = folder.take()
    rows.draw(wasWhole ? changes : NOTHING)
    wasWhole = strip.isCaughtUp || wasWhole
    if (news) tellNews(news, changes)
    news = undefined
    strip.draw(folder.tree.size)
  })
}

function tellNews({ type, key = '' }: ChannelEvent, { moved }: Changes): void {
  const from = moved.get(key)
  const did =
    type === REMOVED ? 'removed' : type !== ADDED ? 'changed' : from === undefined ? 'added' : movedFrom(from, key)
  latest.textContent = `${key} ${did}`
  latest.dataset.path = key
  latest.hidden = false
}

const movedFrom = (from: string, to: string): string =>
  parentOf(from) === parentOf(to) ? `renamed from ${nameOf(from)}` : `moved from ${parentOf(from) || 'the top'}`

function take(item: Item): void {
  switch (item.is) {
    case 'events':
      for (const event of item.events) folder.apply(event)
      strip.events += item.events.length
      strip.seq = item.last
      if (wasWhole) tookLive(item.events.at(-1))
      break
    case 'reset':
      folder.clear()
      wasWhole = false
      strip.seq = item.trimmed
      strip.isCaughtUp = false
      break
    case 'gap':
      strip.seq = item.trimmed
      alert(`Events ${item.after + 1} to ${item.trimmed} are gone: what only they told of is not shown.`)
      break
    case 'caughtup':
      strip.isCaughtUp = true
  }
  draw()
}

function tookLive(event: ChannelEvent | undefined): void {
  if (event === undefined) return
  strip.delay = Date.now() - Date.parse(event.time)
  news = event
}

function alert(text: string): void {
  byId('alert').textContent = text
  byId('alert').hidden = false
}

/** The one place where the client is made, and where a token would be given to it. */
async function connect(): Promise<Tidemark> {
  const client = (await import(`${server}/client.js`)) as typeof import('../../src/client/browser.ts')
  return new client.Tidemark(server + path, { WebSocket: strip.countedSockets() })
}

latest.addEventListener('click', () => {
  rows.show(latest.dataset.path ?? '')
  byId('tree').focus()
  draw()
})
setInterval(draw, STRIP_MS)

try {
  const tidemark = await connect()
  tidemark.onState((state) => {
    strip.turned(state)
    draw()
  })
  for await (const item of tidemark.channel(channel).followItems({ state: true })) take(item)
} catch (error) {
  alert(`This page follows no more: ${(error as Error).message}. Reload it to begin anew.`)
}
