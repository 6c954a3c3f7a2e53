/**
 * One poller per origin. A browser opens six HTTP/1.1 connections to a server for all tabs of a site; a long poll in
 * each of six tabs would leave none. So tabs that poll share the *waiting*, not the data: one of them, the leader,
 * holds the long poll, for the channels of all. When it is answered it rings a bell, and each tab fetches its own pages
 * by short polls from its own places.
 *
 * A ring says how far a channel reaches. It is level-triggered and holds no data: one that is lost, late or doubled
 * costs time and never an event. Whether a ring is due is only ever decided by a place and by what the leader saw last,
 * so it does not matter in which order the two became known.
 *
 * Loaded when a page polls. PROTOCOL.md says what is shared, and between whom.
 */
import type { PollJson } from '../wire.ts'
import type { Place, Subscription } from './subscription.ts'

/** A tab that nobody rang asks by itself after about so long, and says again what it wants, ms. */
const FALLBACK_MS = 25_000
/** … and so soon where the leader may not see a channel, or where nobody can lead, ms. */
const ALONE_MS = 5_000
/** A leader that gave no sign of life for so long is not waited for: a visible tab takes its place, ms. */
const SILENT_MS = 2 * FALLBACK_MS
/** What nobody has said again for so long is no longer wanted, ms; hidden tabs are late by up to a minute. */
const WANTED_MS = 3 * 60_000
/** The leader's poll begins anew for what other tabs want at most this often, ms. */
const WAKE_MS = 100
/** Most channels of one poll. */
const CHANNELS_MAX = 1_000
/** Of the messages below; it stands in the name of lock and bell. */
const VERSION = 1

export interface Bell {
  /** True while this tab is the one whose poll waits. */
  readonly leads: boolean
  /** What other tabs want beside these channels: the leader asks for it, too. */
  others(asked: ReadonlyMap<string, Subscription>): Readonly<Record<string, object>>
  /** The leader's poll was answered. True when it told of something that another tab wants. */
  answered(answer: PollJson, asked: ReadonlyMap<string, Subscription>): boolean
  /** Everybody but the leader waits here, at the heads of these channels, until it is time to ask again. */
  rings(asked: ReadonlyMap<string, Subscription>, signal: AbortSignal): Promise<void>
  stop(): void
}

type Places = Readonly<Record<string, Place>>
type Streamer = PollJson['streamer'] | undefined

/** Both are states and no commands. */
type Message =
  /** A tab's channels and its places there. */
  | { readonly want: Places }
  /** How far the leader saw each wanted channel; the channels that it may not see, or has no room for. */
  | { readonly leader: string; readonly at: Places; readonly cannot: readonly string[]; readonly streamer: Streamer }

/**
 * @param sameHistory That of epoch.ts; given, so that this file shares nothing with the client's.
 * @param base The address of the interface. Waiting is shared by those who have the same, and …
 * @param wake Ends the round of asking: there is something else to ask.
 * @param token … whose tokens are of the same subject: what another one is not told of does not ring.
 */
export async function newBell(
  sameHistory: (a: string, b: string) => boolean,
  base: string,
  wake: () => void,
  token: string | undefined,
): Promise<Bell> {
  // Missing in a page that was loaded over plain http from another host.
  return 'locks' in navigator && 'BroadcastChannel' in globalThis
    ? sharedBell(`tidemark/${VERSION} ${base}${token ? ` ${await digestOf(token)}` : ''}`, wake, sameHistory)
    : lonely
}

/** Whose a credential is, as 16 hex digits: never the credential itself, and the same for the next one of that subject. */
async function digestOf(token: string): Promise<string> {
  let whose: unknown = token
  try {
    const { iss, sub, groups, perm } = JSON.parse(
      atob(token.split('.')[1]!.replaceAll('-', '+').replaceAll('_', '/')),
    ) as Record<string, unknown>
    whose = [iss, sub, groups, perm]
  } catch {
    // A key, which is the same in each tab.
  }
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(JSON.stringify(whose)))
  return [...new Uint8Array(digest, 0, 8)].map((byte) => byte.toString(16).padStart(2, '0')).join('')
}

/** Nobody can be asked: a visible tab waits, a hidden one asks now and then. */
const lonely: Bell = {
  get leads() {
    return !document.hidden
  },
  others: () => ({}),
  answered: () => false,
  rings: (_, signal) => nap(ALONE_MS, signal).over,
  stop: () => {},
}

/** A rest that ends with the signal, when the page is shown again, and when it is online again. */
function nap(ms: number, signal: AbortSignal): { readonly over: Promise<void>; end(): void } {
  let end = (): void => {}
  const shown = (): void => {
    if (!document.hidden) end()
  }
  const over = new Promise<void>((resolve) => {
    end = () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', end)
      document.removeEventListener('visibilitychange', shown)
      removeEventListener('online', end)
      resolve()
    }
    const timer = setTimeout(end, ms)
    signal.addEventListener('abort', end)
    document.addEventListener('visibilitychange', shown)
    addEventListener('online', end)
    if (signal.aborted) end()
  })
  return { over, end }
}

function sharedBell(name: string, wake: () => void, sameHistory: (a: string, b: string) => boolean): Bell {
  const self = `${Math.random()}`
  const bell = new BroadcastChannel(name)
  const life = new AbortController()
  const { signal } = life
  /** How far each channel reaches, as the leader saw it; the leader's own places for what others want. */
  const heads = new Map<string, Place>()
  /** What other tabs want, and when they said so. */
  const wanted = new Map<string, number>()
  let cannot = new Set<string>()
  /** What the leader's poll asks for. */
  let covered = new Set<string>()
  let leads = false
  let leader = ''
  /** When the leader was heard last. */
  let heard = performance.now()
  /** As the leader told last, and as our own polls were told. */
  let streamer: Streamer
  let told: Streamer
  /** The leader's word was another one than before, and we have not asked since. */
  let isNews = false
  /** The rest of a tab that waits for a ring, and where it stands. */
  let resting: { readonly asked: ReadonlyMap<string, Subscription>; end(): void } | undefined
  /** The rings that were answered by asking: a poll that says nothing is not repeated for the same ring. */
  const answeredAt = new Map<string, Place>()
  let said = ''
  let saidAt = 0
  let waking: ReturnType<typeof setTimeout> | undefined

  const say = (message: Message): void => {
    if (!signal.aborted) bell.postMessage(message)
  }

  const sayAt = (): void => {
    const at: Record<string, Place> = {}
    for (const channel of wanted.keys()) {
      const head = heads.get(channel)
      if (head) at[channel] = head
    }
    say({ leader: self, at, cannot: [...cannot], streamer })
  }

  const sayWant = (asked: ReadonlyMap<string, Subscription>): void => {
    said = [...asked.keys()].join('\n')
    saidAt = performance.now()
    const want: Record<string, Place> = {}
    for (const [channel, { place }] of asked) if (place) want[channel] = place
    say({ want })
  }

  /** True when a reader at this place has something to ask. */
  const isBeyond = (head: Place, place: Place): boolean => {
    if (head.epoch === null || place.epoch === null) return head.epoch !== place.epoch
    return head.after > place.after || !sameHistory(head.epoch, place.epoch)
  }

  /** True when a channel reaches beyond our place, as far as we heard, and we have not asked since. */
  const isRung = (asked: ReadonlyMap<string, Subscription>): boolean => {
    let rung = isNews && streamer !== told
    isNews = false
    for (const [channel, { place }] of asked) {
      const head = heads.get(channel)
      if (!head || !place || answeredAt.get(channel) === head || !isBeyond(head, place)) continue
      answeredAt.set(channel, head)
      rung = true
    }
    return rung
  }

  /** Another tab wants something: it is told how far we saw, and what is new to us is asked for. */
  const wants = (want: Places): void => {
    let isNew = false
    for (const [channel, place] of Object.entries(want)) {
      if (!covered.has(channel)) isNew = true
      // The poll begins where the first one stands: who stands before it is rung at once, who stands behind it by the poll.
      if (!heads.has(channel)) heads.set(channel, place)
      wanted.set(channel, performance.now())
    }
    sayAt()
    if (isNew)
      waking ??= setTimeout(() => {
        waking = undefined
        wake()
      }, WAKE_MS)
  }

  bell.onmessage = ({ data }: MessageEvent<Message>) => {
    if ('want' in data) {
      if (leads) wants(data.want)
      return
    }
    heard = performance.now()
    // Equal places keep their identity, so that a ring is answered once.
    for (const [channel, place] of Object.entries(data.at)) {
      const known = heads.get(channel)
      if (known?.after !== place.after || known.epoch !== place.epoch) heads.set(channel, place)
    }
    cannot = new Set(data.cannot)
    isNews ||= streamer !== data.streamer
    streamer = data.streamer
    const isUnknown = leader !== data.leader
    leader = data.leader
    // Whoever asks just now says it when it waits again.
    if (isUnknown) said = ''
    if (resting && isUnknown) sayWant(resting.asked)
    if (resting && isRung(resting.asked)) resting.end()
  }

  const lead = (steal: boolean): void => {
    const held = (): Promise<void> =>
      new Promise((resolve) => {
        if (signal.aborted) return resolve()
        signal.addEventListener('abort', () => resolve())
        leads = true
        leader = self
        // Whoever hears a leader that it does not know says what it wants.
        sayAt()
        resting?.end()
      })
    // A request that steals takes no signal.
    navigator.locks.request(name, steal ? { steal } : { signal }, held).catch(() => {
      if (signal.aborted) return
      // Taken by a tab that did not hear from us; or no lock is to be had, and we wait as if we were alone.
      const wasStolen = leads
      leads = !wasStolen
      heard = performance.now()
      if (wasStolen) lead(false)
    })
  }
  lead(false)

  return {
    get leads() {
      return leads
    },
    others(asked) {
      const others: Record<string, object> = {}
      let room = CHANNELS_MAX - asked.size
      for (const [channel, since] of wanted) {
        if (performance.now() - since > WANTED_MS) wanted.delete(channel)
        else if (asked.has(channel)) continue
        else if (room-- > 0) others[channel] = heads.get(channel)!
        else cannot.add(channel)
      }
      for (const [channel, { place }] of asked) if (place) heads.set(channel, place)
      covered = new Set([...asked.keys(), ...Object.keys(others)])
      return others
    },
    answered({ pages, streamer: now }, asked) {
      told = now
      if (!leads) return false
      let hasMoved = false
      streamer = now
      for (const page of pages) {
        if (asked.has(page.channel)) continue
        if ('error' in page) {
          wanted.delete(page.channel)
          cannot.add(page.channel)
        } else {
          heads.set(page.channel, { epoch: page.epoch, after: page.last })
          hasMoved = true
        }
      }
      for (const [channel, { place }] of asked) if (place) heads.set(channel, place)
      sayAt()
      return hasMoved
    },
    async rings(asked, over) {
      const isRefused = [...asked.keys()].some((channel) => cannot.has(channel))
      const { over: rested, end } = nap((isRefused ? ALONE_MS : FALLBACK_MS) * (0.8 + 0.4 * Math.random()), over)
      resting = { asked, end }
      if (said !== [...asked.keys()].join('\n') || performance.now() - saidAt > FALLBACK_MS / 2) sayWant(asked)
      if (leads || isRung(asked)) end()
      await rested
      resting = undefined
      if (!leads && !document.hidden && performance.now() - heard > SILENT_MS) {
        heard = performance.now()
        lead(true)
      }
    },
    stop() {
      life.abort()
      leads = false
      clearTimeout(waking)
      bell.close()
    },
  }
}
