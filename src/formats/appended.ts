/**
 * Answers to appends as whole WebSocket frames, in which each character is a byte: text is joined faster than buffers
 * are, and a socket has hundreds of answers in one write.
 */
import { Packr } from 'msgpackr'
import type { Appended, Durability } from '../log/log.ts'
import type { AppendedJson, Ref } from '../wire.ts'
import { BINARY, frameHead, TEXT } from './heads.ts'

/** Appends to one channel that were made as one, in their order. */
export interface Together {
  readonly refs: readonly Ref[]
  /** Events of each. */
  readonly sizes: readonly number[]
}

/** What all answers have in common, around `ref`, `first` and `last`. */
interface Mould {
  readonly start: string
  readonly middle: string
  readonly between: string
  readonly end: string
}

function framesOf(
  opcode: typeof TEXT | typeof BINARY,
  { start, middle, between, end }: Mould,
  value: (value: Ref) => string,
  { refs, sizes }: Together,
  { first }: Appended,
): string {
  let frames = ''
  let after = first - 1
  for (let i = 0; i < refs.length; i++) {
    const last = after + sizes[i]!
    const message = start + value(refs[i]!) + middle + value(after + 1) + between + value(last) + end
    frames += frameHead(opcode, message.length) + message
    after = last
  }
  return frames
}

/** @param answer to all of them */
export function jsonAppended(together: Together, answer: Appended, durability: Durability): string {
  // Names and epochs need no escapes in JSON.
  const { channel, epoch, head, duplicate } = answer
  const mould = {
    start: '{"op":"appended","ref":',
    middle: `,"channel":"${channel}","epoch":"${epoch}","first":`,
    between: ',"last":',
    end: `,"head":${head}${duplicate ? ',"duplicate":true' : ''},"durability":"${durability}"}`,
  }
  return framesOf(TEXT, mould, jsonValue, together, answer)
}

/** In ASCII, whatever it says. */
const jsonValue = (value: Ref): string =>
  typeof value === 'number' ? String(value) : JSON.stringify(value).replace(/[^ -~]/g, escaped)

const escaped = (unit: string): string => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`

/** @param answer to all of them */
export function msgpackAppended(together: Together, answer: Appended, durability: Durability): string {
  const { channel, epoch, head, duplicate } = answer
  const around: [keyof AppendedJson, unknown][] = [['head', head]]
  if (duplicate) around.push(['duplicate', true])
  around.push(['durability', durability])
  const mould = {
    start: String.fromCharCode(0x80 | (6 + around.length)) + START,
    middle: CHANNEL + packed(channel) + EPOCH + packed(epoch) + FIRST,
    between: LAST,
    end: around.map(([name, value]) => packed(name) + packed(value)).join(''),
  }
  return framesOf(BINARY, mould, msgpackValue, together, answer)
}

const packr = new Packr({ useRecords: false })
const packed = (value: unknown): string => packr.pack(value).toString('latin1')

const START = packed('op') + packed('appended') + packed('ref')
const CHANNEL = packed('channel')
const EPOCH = packed('epoch')
const FIRST = packed('first')
const LAST = packed('last')

function msgpackValue(value: Ref): string {
  if (typeof value === 'number' && value >= 0) {
    if (value < 0x80) return String.fromCharCode(value)
    if (value < 0x100) return String.fromCharCode(0xcc, value)
    if (value < 0x10000) return String.fromCharCode(0xcd, value >> 8, value & 255)
    if (value < 2 ** 32)
      return String.fromCharCode(0xce, value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255)
  }
  return packed(value)
}
