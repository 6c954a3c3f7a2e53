/** Where the page is: `#/channels/orders?…`. Names and searches stand in the address, so that it can be kept and sent. */
import { signal } from '@preact/signals'

export interface Route {
  /** `channels`, `cursors`, …; empty for the overview. */
  readonly page: string
  /** What follows it: the name of a channel. */
  readonly name: string
  readonly query: URLSearchParams
}

export const route = signal(read())

window.addEventListener('hashchange', () => {
  route.value = read()
})

function read(): Route {
  const [path = '', query = ''] = location.hash.replace(/^#\/?/, '').split('?', 2)
  const slash = path.indexOf('/')
  const page = slash < 0 ? path : path.slice(0, slash)
  const name = slash < 0 ? '' : path.slice(slash + 1)
  return { page, name: decoded(name), query: new URLSearchParams(query) }
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

const encoded = (name: string): string => encodeURIComponent(name).replaceAll('%2F', '/').replaceAll('%3A', ':')

export const channelHref = (name: string): string => `#/channels/${encoded(name)}`
/** How a channel is kept. */
export const keepingHref = (name: string): string => `#/keeping/${encoded(name)}`
export const cursorsHref = (channel: string): string => `#/cursors?channel=${encoded(channel)}`

/** Changes the query of this page without a step in the history. */
export function replaceQuery(page: string, query: Readonly<Record<string, string>>): void {
  const given = Object.entries(query).filter(([, value]) => value !== '')
  const text = new URLSearchParams(given).toString()
  history.replaceState(null, '', `#/${page}${text === '' ? '' : `?${text}`}`)
}
