/** Kinds of settings: what values each takes, and how they are read. */
import { TidemarkError } from './errors.ts'
import { RETENTION_RULES_MAX, type RetentionRule, readRetentionRule } from './retention.ts'
import { between, DURATION_UNITS, SIZE_UNITS, withUnit } from './units.ts'

/** What values are taken. Every program reads all settings at its start, so this is no library's to load. */
export interface Kind<T> {
  /** What is said of a value that is not. */
  readonly rule: string
  /** The value as programs use it; undefined when it is wrong. */
  readonly read: (raw: unknown) => T | undefined
}

export const texts = (rule: string, is: RegExp): Kind<string> => ({
  rule,
  read: (raw) => (typeof raw === 'string' && is.test(raw) ? raw : undefined),
})
export const text = texts('takes a text that is not empty', /./s)
const YES = new Set(['true', '1', 'yes', 'on', 'y', 'enabled'])
const NO = new Set(['false', '0', 'no', 'off', 'n', 'disabled'])
export const yesNo: Kind<boolean> = {
  rule: 'takes true or false',
  read(raw) {
    if (typeof raw !== 'string') return typeof raw === 'boolean' ? raw : undefined
    const word = raw.toLowerCase()
    return YES.has(word) || (NO.has(word) ? false : undefined)
  },
}
export const list: Kind<string[]> = {
  rule: 'takes a list of texts that are not empty',
  read(raw) {
    const parts: unknown = typeof raw === 'string' ? raw.split(',').map((part) => part.trim()) : raw
    return Array.isArray(parts) && parts.every((part) => text.read(part)) ? parts : undefined
  },
}
/** Texts, in a file also `PATTERN: LIMITS` as YAML reads it; in the environment separated by semicolons. */
export const rules: Kind<RetentionRule[]> = {
  rule: `takes PATTERN: age=7d, events=1000000, bytes=1GiB, consumed, state (each once, one at least), ${RETENTION_RULES_MAX} times at most`,
  read(raw) {
    const parts: readonly unknown[] = typeof raw === 'string' ? raw.split(';') : Array.isArray(raw) ? raw : [raw]
    const texts = parts.flatMap((part) =>
      typeof part === 'object' && part !== null
        ? Object.entries(part).map(([key, value]): unknown => (typeof value === 'string' ? `${key}: ${value}` : value))
        : part,
    )
    if (texts.length > RETENTION_RULES_MAX || !texts.every((text) => typeof text === 'string')) return undefined
    try {
      return texts.map(readRetentionRule)
    } catch (error) {
      if (error instanceof TidemarkError) return undefined
      throw error
    }
  },
}
export const whole = (min: number, max: number): Kind<number> => ({
  rule: `takes a whole number, ${min} … ${max}`,
  read: (raw) => between(typeof raw === 'string' && /^\d{1,16}$/.test(raw) ? Number(raw) : raw, min, max),
})
/** Milliseconds, written with a unit. */
export const duration = (min: number, max: number, range: string): Kind<number> => ({
  rule: `takes a time with its unit (ms, s, m, h, d), ${range}`,
  read: (raw) => between(typeof raw === 'string' ? withUnit(raw, DURATION_UNITS) : raw === 0 ? 0 : undefined, min, max),
})
/** Bytes, a plain number or with a unit. */
export const size = (min: number, max: number, range: string): Kind<number> => ({
  rule: `takes bytes or a size with its unit (KiB, MiB, GiB), ${range}`,
  read: (raw) => between(withUnit(raw, SIZE_UNITS), min, max),
})
const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const
export const logLevel: Kind<(typeof LEVELS)[number]> = {
  rule: 'takes trace, debug, info, warn, error, fatal or silent',
  read: (raw) => LEVELS.find((level) => level === raw),
}
export const upstream: Kind<'terminated-upstream'> = {
  rule: 'takes terminated-upstream',
  read: (raw) => (raw === 'terminated-upstream' ? raw : undefined),
}
export const always: Kind<'always'> = {
  rule: 'takes always',
  read: (raw) => (raw === 'always' ? raw : undefined),
}
export const durability: Kind<'replicated' | 'fsync'> = {
  rule: 'takes replicated or fsync',
  read: (raw) => (raw === 'replicated' || raw === 'fsync' ? raw : undefined),
}
const ENGINE = /^(?:level|(?:nats|tls):\/\/[^\s,]+(?:,(?:nats|tls):\/\/[^\s,]+)*)$/
export const engine = texts('takes level, or nats://host:port[,nats://host:port …]', ENGINE)
export const address: Kind<string> = {
  rule: 'takes an http:// or https:// address',
  read: (raw) =>
    typeof raw === 'string' && /^https?:\/\//i.test(raw.trim()) && URL.canParse(raw) ? raw.trim() : undefined,
}
/** A text that may look like a number in a file. */
export const position: Kind<string> = {
  rule: 'takes a position',
  read: (raw) => (typeof raw === 'string' || typeof raw === 'number' ? String(raw) : undefined),
}
