/** Concurrent clients over every door, each writing down what it asked and what it was told. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Tidemark } from '../../src/client/client.ts'
import { hasCode, type Problem } from '../../src/errors.ts'
import type { AppendedJson, CursorJson, EventJson, PageJson } from '../../src/wire.ts'
import { dice } from './dice.ts'
import type { AppendCall, Call, Place, Seen } from './history.ts'

/** What the clients of one history share. */
export interface World {
  readonly url: string
  readonly seed: number
  readonly calls: Call[]
  /** Newest head that anybody was told, by channel. */
  readonly heads: Map<string, number>
  /** Nothing new is begun; what has a key is still sent until it is answered. */
  readonly over: AbortSignal
  /** Followers end. */
  readonly end: AbortSignal
  /** How far each follower has come: name and channel, seq. */
  readonly followed: Map<string, number>
  /** `retried`: sent again under their key, and answered then. */
  readonly appends: { answered: number; retried: number }
}

const NO_ANSWER = Symbol('no answer')
type Answer = { readonly status: number; readonly value: unknown } | typeof NO_ANSWER
/** A pause between the calls of one client is shorter than this, ms. */
const PAUSE_MS = 6
/** After a call without an answer, ms. */
const REST_MS = 30
/** There is no such channel yet, or no log behind the server just now. */
const LATER: readonly number[] = [404, 503]
/** How long an answer is waited for: short enough that a server that stands still is left and asked again. */
const PATIENCE_MS = 400

async function ask(world: World, method: string, path: string, body?: unknown, headers = {}): Promise<Answer> {
  try {
    const response = await fetch(`${world.url}/v1/${path}`, {
      method,
      ...(body !== undefined && { body: JSON.stringify(body) }),
      headers: { ...(body !== undefined && { 'content-type': 'application/json' }), ...headers },
      signal: AbortSignal.timeout(PATIENCE_MS),
    })
    return { status: response.status, value: await response.json() }
  } catch {
    // Refused, cut or late: whether it happened is not known.
    return NO_ANSWER
  }
}

const now = (): number => performance.now()
const learn = (world: World, channel: string, head: number): void => {
  world.heads.set(channel, Math.max(head, world.heads.get(channel) ?? 0))
}

interface Habits {
  readonly who: string
  readonly channels: readonly string[]
  /** The part of its appends that carry a key, and are sent until they are answered. */
  readonly keyed: number
  readonly expects?: true
}

/** Appends one after the other over HTTP: to one channel, or to all of its channels at once. */
export async function producer(world: World, { who, channels, keyed, expects }: Habits): Promise<void> {
  const random = dice(world.seed + hash(who))
  for (let n = 0; !world.over.aborted; n++) {
    const id = `${who}-${n}`
    const key = random(100) < keyed * 100 ? id : undefined
    const entries = channels.map((channel) => ({
      channel,
      texts: textsOf(id, 1 + random(3), random),
      ...(expects && { expected: world.heads.get(channel) ?? 0 }),
    }))
    let again = key !== undefined && random(2) === 0 ? 1 + random(4) : 0
    for (let tries = 0; ; tries++) {
      const call = await send(world, { op: 'append', who, id, start: now(), entries, outcome: 'unknown' }, key)
      if (call.outcome === 'unknown') await delay(random(REST_MS))
      else if (tries > 0) world.appends.retried++
      // An answered append is sent again at times, though nobody need.
      if (key === undefined || (call.outcome !== 'unknown' && again-- <= 0)) break
    }
    await delay(random(PAUSE_MS))
  }
}

async function send(world: World, asked: AppendCall, key: string | undefined): Promise<AppendCall> {
  const at = world.calls.push(asked) - 1
  const headers = key === undefined ? {} : { 'idempotency-key': key }
  const [first, ...others] = asked.entries
  const eventsOf = (texts: readonly string[]) => texts.map((text) => ({ data: JSON.parse(text) as unknown }))
  const query = first!.expected === undefined ? '' : `?expectedSeq=${first!.expected}`
  const answer =
    others.length === 0
      ? await ask(world, 'POST', `channels/${first!.channel}/events${query}`, eventsOf(first!.texts), headers)
      : await ask(
          ...([world, 'POST', 'append'] as const),
          { appends: asked.entries.map(({ channel, texts }) => ({ channel, events: eventsOf(texts) })) },
          headers,
        )
  const call: AppendCall = answer === NO_ANSWER ? asked : { ...asked, end: now(), ...outcomeOf(answer) }
  for (const { channel, last } of call.placed ?? []) learn(world, channel, last)
  if (call.head !== undefined) learn(world, first!.channel, call.head)
  world.calls[at] = call
  if (call.outcome !== 'unknown') world.appends.answered++
  return call
}

function outcomeOf({ status, value }: Exclude<Answer, symbol>): Pick<AppendCall, 'outcome' | 'placed' | 'head'> {
  if (status < 300) {
    const list = (value as { appended?: AppendedJson[] }).appended ?? [value as AppendedJson]
    return { outcome: 'answered', placed: list.map(placeOf) }
  }
  const { code, head, outcome } = value as Problem & { head?: number; outcome?: string }
  if (code === 'seq-conflict') return { outcome: 'refused', head: head! }
  if (code !== 'unavailable') throw new Error(`An append was refused: ${JSON.stringify(value)}`)
  return { outcome: outcome === 'unknown' ? 'unknown' : 'refused' }
}

const placeOf = ({ channel, epoch, first, last }: AppendedJson): Place => ({ channel, epoch, first, last })

/** Appends through the client, several on their way at once; it sends each until it is answered. */
export async function pipeliner(world: World, who: string, channel: string, client: Tidemark): Promise<void> {
  const random = dice(world.seed + hash(who))
  const under = new Set<Promise<void>>()
  for (let n = 0; !world.over.aborted; n++) {
    const id = `${who}-${n}`
    const texts = textsOf(id, 1 + random(3), random)
    const asked: AppendCall = { op: 'append', who, id, start: now(), entries: [{ channel, texts }], outcome: 'unknown' }
    const at = world.calls.push(asked) - 1
    const appended = client.channel(channel).append(texts.map((text) => ({ data: JSON.parse(text) as unknown })))
    const done = appended.then((answer) => {
      world.calls[at] = { ...asked, end: now(), outcome: 'answered', placed: [placeOf(answer)] }
      learn(world, channel, answer.last)
      under.delete(done)
    })
    under.add(done)
    if (under.size >= 3) await Promise.race(under)
    await delay(random(PAUSE_MS))
  }
  await Promise.all(under)
}

/** Pages of a channel over HTTP, from anywhere; with `wait`, long polls at the head. */
export async function reader(world: World, who: string, channel: string, wait: boolean): Promise<void> {
  const random = dice(world.seed + hash(who))
  while (!world.over.aborted) {
    const head = world.heads.get(channel) ?? 0
    const after = wait ? head : Math.max(0, head - random(40))
    const start = now()
    const answer = await ask(world, 'GET', `channels/${channel}/events?after=${after}${wait ? '&wait=1' : ''}`)
    if (answer !== NO_ANSWER && answer.status === 200) {
      const page = answer.value as PageJson
      world.calls.push({ op: 'read', who, start, end: now(), ...page, events: seenOf(page.events) })
      learn(world, channel, page.head)
    } else if (answer !== NO_ANSWER && !LATER.includes(answer.status)) throw new Error(JSON.stringify(answer.value))
    else await delay(random(REST_MS))
    if (!wait) await delay(random(PAUSE_MS))
  }
}

/** Follows through the client, and commits what it was given. */
export async function follower(world: World, who: string, channel: string, client: Tidemark): Promise<void> {
  let committing: Promise<void> | undefined
  for await (const item of client.channel(channel).followItems({ after: 0, signal: world.end })) {
    if (item.is === 'caughtup') continue
    if (item.is !== 'events') throw new Error(`${who} was told ${item.is} of ${channel}`)
    const { epoch, events, last } = item
    world.calls.push({ op: 'follow', who, channel, end: now(), epoch, events: seenOf(events) })
    world.followed.set(`${who} ${channel}`, last)
    if (!world.over.aborted)
      committing ??= commitThrough(world, who, channel, last, client).finally(() => {
        committing = undefined
      })
  }
  await committing
}

async function commitThrough(
  world: World,
  who: string,
  channel: string,
  asked: number,
  client: Tidemark,
): Promise<void> {
  const call = { op: 'cursor' as const, who, channel, start: now(), asked }
  const at = world.calls.push(call) - 1
  try {
    await client.channel(channel).commit(asked)
    // One that asks for ever more is told what it asked for.
    world.calls[at] = { ...call, end: now(), seq: asked }
  } catch (error) {
    if (!hasCode(error, 'unavailable')) throw error
  }
}

/** Follows over server-sent events, coming back with the last id that it had. */
export async function listener(world: World, who: string, channel: string): Promise<void> {
  const random = dice(world.seed + hash(who))
  let id: string | undefined
  while (!world.end.aborted) {
    try {
      const response = await fetch(`${world.url}/v1/channels/${channel}/events?named=0`, {
        headers: { accept: 'text/event-stream', ...(id !== undefined && { 'last-event-id': id }) },
        signal: world.end,
      })
      let text = ''
      for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
        const messages = (text + chunk).split('\n\n')
        text = messages.pop()!
        for (const message of messages) id = hear(world, who, channel, message) ?? id
      }
    } catch (error) {
      // Cut, refused or over: it comes back. What a listener finds wrong is no TypeError of fetch.
      if (!(error instanceof TypeError) && !(error instanceof DOMException)) throw error
    }
    await delay(random(REST_MS))
  }
}

/** One message of a stream; returns its id. */
function hear(world: World, who: string, channel: string, message: string): string | undefined {
  const fields = new Map(
    message.split('\n').map((line) => line.match(/^(\w*): ?(.*)$/)?.slice(1, 3) as [string, string]),
  )
  const [id, event, data] = ['id', 'event', 'data'].map((name) => fields.get(name))
  if (event === 'tidemark.caughtup' || data === undefined) return id
  if (event?.startsWith('tidemark.')) throw new Error(`${who} was told ${event} of ${channel}: ${data}`)
  const events = seenOf([JSON.parse(data) as EventJson])
  const epoch = id!.slice(0, id!.lastIndexOf(':'))
  world.calls.push({ op: 'follow', who, channel, end: now(), epoch, events })
  world.followed.set(`${who} ${channel}`, events.at(-1)![0])
  return id
}

/** Commits over HTTP, forward and back, and looks at the cursor. */
export async function committer(world: World, who: string, channel: string, habit: string): Promise<void> {
  const random = dice(world.seed + hash(habit))
  while (!world.over.aborted) {
    const start = now()
    const path = `channels/${channel}/cursors/${who}`
    const asked = random(3) > 0 ? Math.max(0, (world.heads.get(channel) ?? 0) - random(20)) : undefined
    const call = { op: 'cursor' as const, who, channel, start, ...(asked !== undefined && { asked }) }
    const at = world.calls.push(call) - 1
    const answer = asked === undefined ? await ask(world, 'GET', path) : await ask(world, 'PUT', path, { seq: asked })
    if (answer === NO_ANSWER) await delay(random(REST_MS))
    else if (answer.status === 200) world.calls[at] = { ...call, end: now(), seq: (answer.value as CursorJson).seq }
    else if (answer.status === 404 && asked === undefined && (answer.value as Problem).code === 'not-found')
      world.calls[at] = { ...call, end: now(), seq: -1 }
    else if (!LATER.includes(answer.status)) throw new Error(JSON.stringify(answer.value))
    await delay(random(PAUSE_MS))
  }
}

const textsOf = (id: string, count: number, random: (below: number) => number): string[] =>
  Array.from({ length: count }, (_, i) => JSON.stringify({ id, i, pad: 'x'.repeat(random(120)) }))

const seenOf = (events: readonly EventJson[]): Seen => events.map(({ seq, data }) => [seq, JSON.stringify(data)])

const hash = (text: string): number => [...text].reduce((sum, char) => (sum * 31 + char.charCodeAt(0)) % 1_000_003, 7)
