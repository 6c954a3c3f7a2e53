import type { Command } from 'commander'
import type { Items } from '../src/client/follow.ts'
import { connect as join } from '../src/client/node.ts'
import type { ChannelEvent, Item, Place, Start } from '../src/client/subscription.ts'
import type { Settings } from '../src/config.ts'
import { hasCode } from '../src/errors.ts'
import { checkEpoch, checkPosition, checkSeq } from '../src/event.ts'
import { askPatiently, channelOf, connect, credentialOf, pathOf, wrongUsage } from './ask.ts'
import { command, type Run } from './command.ts'
import { printable, type Terminal } from './terminal.ts'

/** Events shown before the new ones, unless told. */
const LINES = 20

export const tailCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'tail <CHANNEL...>',
      summary: 'show the newest events of channels, and each new one as it comes',
      more:
        'Ctrl-C prints where each channel stands, as CHANNEL@EPOCH:SEQ; give it in place of CHANNEL to go on from there. ' +
        'With --client the server keeps the place: what was printed is committed, and after a crash the last lines may ' +
        'come again. With --json each line is an event, or what happened to the history in its place among them: ' +
        '{ "is": "gap" | "reset", … }; after a reset, what was built from earlier events is void.',
      settings: ['lines', 'after', 'client', 'follow', 'url', 'tokenFile', 'json', 'patience'],
      examples: [
        ['tidemark tail orders', 'the last 20, then each new one'],
        ['tidemark tail orders files -n 0', 'two channels, only what is new'],
        ['tidemark tail orders@x1:42', 'everything after seq 42 of that history'],
        ['tidemark tail orders --client audit-1 --json', 'go on where audit-1 was, for a program'],
        ['tidemark tail orders --after earliest --no-follow', 'all that is there'],
      ],
    },
    terminal,
    tail,
  )

interface Followed {
  readonly channel: string
  readonly start: Start
}

export async function tail({ args, settings, terminal }: Run): Promise<void> {
  const followed = (args[0] as readonly string[]).map((arg) => startOf(arg, settings))
  if (new Set(followed.map(({ channel }) => channel)).size < followed.length)
    throw wrongUsage('a channel is given twice')
  await checkThere(followed, settings)
  const ending = new AbortController()
  const end = () => ending.abort()
  const stopped = terminal.stopped()
  stopped.addEventListener('abort', end)
  const client = join(settings.url, { client: settings.client, token: credentialOf(settings) })
  let wasLost = false
  client.onState((state) => {
    if (state === 'waiting' && !wasLost) terminal.say('tidemark: the server does not answer; trying again')
    if (state === 'open' && wasLost) terminal.say('tidemark: joined again')
    wasLost = state === 'waiting' || (wasLost && state !== 'open')
  })
  const loops = followed.map(({ channel, start }) =>
    client.channel(channel).followItems({ ...start, signal: ending.signal }),
  )
  const names = followed.map(({ channel }) => channel)
  try {
    // One that reached its head is done by itself; one that failed ends them all.
    await Promise.all(loops.map((loop) => show(loop, names.length > 1, settings, terminal)))
  } finally {
    end()
    const places = loops.flatMap(({ place }, i) => (place === undefined ? [] : [placeText(names[i]!, place)]))
    if (settings.follow && places.length > 0) terminal.say(places.join('\n'))
    await client.close()
  }
}

/** Where a channel of the command line begins: at its own `@…`, else where the options say. @throws bad-request */
function startOf(arg: string, { lines, after, client }: Settings): Followed {
  const at = arg.indexOf('@')
  const channel = channelOf(at < 0 ? arg : arg.slice(0, at))
  if ([lines, after, client].filter((given) => given !== undefined).length > 1)
    throw wrongUsage('of -n, --after and --client only one can say where to begin')
  if (at >= 0) return { channel, start: placeOf(arg.slice(at + 1)) }
  if (client !== undefined) return { channel, start: { cursor: true } }
  return { channel, start: { after: positionOf(after ?? `head-${lines ?? LINES}`) } }
}

function placeOf(text: string): Start {
  const place = /^([^:]+):(\d+)$/.exec(text)
  return place ? { epoch: checkEpoch(place[1]), after: checkSeq(place[2]) } : { after: positionOf(text) }
}

/** A position as the client takes it: a seq as a number. */
function positionOf(text: string): number | string {
  const position = checkPosition(text)
  return position.at === 'seq' ? position.seq : text
}

const placeText = (channel: string, { epoch, after }: Place): string =>
  `${channel}@${epoch === null ? '' : `${epoch}:`}${after}`

/** A server that is not there, or a channel that nobody waits for, is told at once. */
async function checkThere(followed: readonly Followed[], settings: Settings): Promise<void> {
  const http = connect(settings)
  for (const { channel } of followed)
    try {
      await askPatiently(http, { path: `${pathOf(channel)}/events?after=head&limit=1` }, settings.patience)
    } catch (error) {
      if (!settings.follow || !hasCode(error, 'no-channel')) throw error
    }
}

async function show(loop: Items, isNamed: boolean, settings: Settings, terminal: Terminal): Promise<void> {
  for await (const item of loop) {
    const lines = settings.json ? jsonLines(item) : textLines(item, isNamed)
    if (lines.length > 0) await terminal.print(lines.join('\n'))
    if (item.is === 'gap') terminal.say(`tidemark: ${item.channel}: events up to ${item.trimmed} are gone`)
    if (item.is === 'reset') terminal.say(`tidemark: ${item.channel}: the history is another one, it starts over`)
    if (item.is === 'caughtup' && !settings.follow) return
  }
}

function jsonLines(item: Item): string[] {
  if (item.is === 'caughtup') return []
  return item.is === 'events' ? item.events.map((event) => JSON.stringify(event)) : [JSON.stringify(item)]
}

function textLines(item: Item, isNamed: boolean): string[] {
  return item.is === 'events' ? item.events.map((event) => textOf(event, isNamed)) : []
}

/** `time [channel] seq type key data`, a dash for what an event has not. */
function textOf(event: ChannelEvent, isNamed: boolean): string {
  const { time, channel, seq, type = '-', key = '-' } = event
  return printable([time, ...(isNamed ? [channel] : []), seq, type, key, dataText(event)].join(' '))
}

function dataText({ tombstone, contentType, data, dataBase64 }: ChannelEvent): string {
  if (tombstone) return '(gone)'
  if (dataBase64 !== undefined) return `(${contentType}, ${Buffer.byteLength(dataBase64, 'base64')} bytes)`
  return data === undefined ? '-' : JSON.stringify(data)
}
