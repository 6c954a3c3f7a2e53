/** Pages of a channel, asked for over HTTP, and commits where there is no socket that can take them. */
import type { PageJson } from '../wire.ts'
import { type Http, REQUEST_MS } from './http.ts'
import { errorOf } from './refusal.ts'
import type { Place } from './subscription.ts'

export interface ReadOptions {
  /** As `follow`. Default `earliest`. */
  readonly after?: number | string | undefined
  /** From this client's cursor, in place of `after`. */
  readonly cursor?: true | undefined
  /** Most events, 1–10,000. Default 100. */
  readonly limit?: number | undefined
  /** Seconds to wait for events at the head, 0–55. Default 0. */
  readonly wait?: number | undefined
  readonly epoch?: string | undefined
  readonly signal?: AbortSignal | undefined
}

/**
 * @param client Whose cursor is read from, where options say so.
 * @param options.last In place of all else: the newest so many seqs, as one page, however many answers they take.
 */
export async function read(
  http: Http,
  channel: string,
  client: string | undefined,
  { last, ...options }: ReadOptions & { readonly last?: number } = {},
): Promise<PageJson> {
  const ask = async ({ after, cursor, limit, wait = 0, epoch }: ReadOptions): Promise<PageJson> => {
    // Without what is undefined.
    const asked = JSON.parse(
      JSON.stringify({ after, client: cursor && named(client), limit, wait: wait || undefined, epoch }),
    )
    const path = `channels/${channel}/events?${new URLSearchParams(asked)}`
    const timeout = REQUEST_MS + wait * 1_000
    const { value } = await http.call<PageJson>({ path, signal: options.signal, timeout })
    // A portal's page, say.
    if (!value.events) throw errorOf({ code: 'unavailable', detail: 'No page' })
    return value
  }
  if (last === undefined) return ask(options)
  let page = await ask({ after: `head-${last}`, limit: last })
  const { events, head } = page
  while (page.last < head) {
    page = await ask({ after: page.last, epoch: page.epoch, limit: head - page.last })
    events.push(...page.events)
  }
  return { ...page, events }
}

/** Moves a client's cursor. @throws what the server refused; bad-request without a name */
export const commit = async (
  http: Http,
  channel: string,
  client: string | undefined,
  { after, epoch }: Place,
): Promise<unknown> =>
  http.call({
    method: 'PUT',
    path: `channels/${channel}/cursors/${named(client)}`,
    body: JSON.stringify({ seq: after, epoch: epoch ?? undefined }),
  })

function named(client: string | undefined): string {
  if (client) return client
  throw errorOf({ code: 'bad-request', detail: 'No client name' })
}
