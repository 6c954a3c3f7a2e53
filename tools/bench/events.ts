/**
 * What the bench appends: events whose data is 200 bytes of JSON, of mixed text, every one different. They begin with
 * a stamp, `{"t":0000000000000000`, which the load program replaces by the time of sending (microseconds since 1970).
 */
import { deflateSync } from 'node:zlib'

export const DATA_BYTES = 200
const STAMP = `"t":${'0'.repeat(16)}`
/** Bytes after an event's stamp that hold no other stamp; less than there are, for whoever re-writes the JSON. */
export const BYTES_AFTER_STAMP = DATA_BYTES - STAMP.length - 20

/** The same sequence on every machine. */
function randomFrom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

const SYLLABLES =
  'ba be bo da de di fa fe ga go ha he ja ka ki la le lo ma me mi na ne no pa pe ra re ro sa se ta te to va ve'
const random = randomFrom(7)
const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!
const syllables = SYLLABLES.split(' ')
const words = Array.from({ length: 3_000 }, () =>
  Array.from({ length: 1 + Math.floor(random() * 4) }, () => pick(syllables)).join(''),
)
const operations = ['added', 'changed', 'removed', 'moved', 'shared']
const endings = ['jpg', 'png', 'txt', 'pdf', 'md', 'mp4', 'json']

/** The data of one event: a file that changed, DATA_BYTES of ASCII JSON on one line. */
function makeData(): string {
  const path = `/${pick(words)}/${pick(words)}/${pick(words)}-${Math.floor(random() * 1e5)}.${pick(endings)}`
  const head = `{${STAMP},"op":"${pick(operations)}","path":"${path}","bytes":${Math.floor(random() * 1e8)},"by":"${pick(words)}","note":"`
  let text = ''
  while (head.length + text.length < DATA_BYTES) text += `${pick(words)} `
  return `${head}${text.slice(0, DATA_BYTES - head.length - 2)}"}`
}

const made: string[] = []

/** The data of event `i`. */
export function dataOf(i: number): string {
  while (made.length <= i) made.push(makeData())
  return made[i]!
}

/** Size of a thousand different events after `deflate`, as a share of what they were. */
export function compressedShare(): number {
  const text = Array.from({ length: 1_000 }, (_, i) => dataOf(i)).join('\n')
  return deflateSync(text).length / text.length
}
