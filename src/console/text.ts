/** Numbers, times and foreign text as a person reads them. */

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 })
const fine = new Intl.NumberFormat('en', { maximumFractionDigits: 1 })

export const count = (n: number): string => whole.format(n)

/** Per second. */
export const rate = (n: number): string =>
  n === 0 ? '0' : n < 0.1 ? '<0.1' : n < 100 ? fine.format(n) : whole.format(n)

const SIZES = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const

export function bytes(n: number): string {
  const step = n < 1024 ? 0 : Math.min(Math.floor(Math.log2(n) / 10), SIZES.length - 1)
  return `${fine.format(n / 1024 ** step)} ${SIZES[step]}`
}

/** A short time, as a chart's scale tells it: no two of its steps alike. */
export function span(ms: number): string {
  if (ms === 0) return '0'
  if (ms < 1) return `${fine.format(ms * 1_000)} µs`
  return ms < 1_000 ? `${fine.format(ms)} ms` : `${fine.format(ms / 1_000)} s`
}

export function duration(ms: number): string {
  if (ms < 1_000) return span(ms)
  const s = Math.floor(ms / 1_000)
  if (s < 60) return `${s} s`
  if (s < 3_600) return parts(Math.floor(s / 60), 'min', s % 60, 's')
  if (s < 86_400) return parts(Math.floor(s / 3_600), 'h', Math.floor((s % 3_600) / 60), 'min')
  return parts(Math.floor(s / 86_400), 'd', Math.floor((s % 86_400) / 3_600), 'h')
}

const parts = (n: number, unit: string, rest: number, ofRest: string): string =>
  rest === 0 ? `${n} ${unit}` : `${n} ${unit} ${rest} ${ofRest}`

/** How long ago a time is. */
export const age = (time: string | null): string => (time === null ? '–' : agoText(Date.now() - Date.parse(time)))

/** How long until a time: `in 48 s`. */
export function until(time: string): string {
  const ms = Date.parse(time) - Date.now()
  return ms < 2_000 ? 'now' : `in ${duration(ms)}`
}

const agoText = (ms: number): string => (ms < 2_000 ? 'now' : `${duration(ms)} ago`)

/** `18:48:00.123`, of this day; others with their date. As the clock of this machine shows it. */
export function clock(time: string): string {
  const at = new Date(time)
  const today = at.toDateString() === new Date().toDateString()
  const text = at.toLocaleTimeString('en-GB', { hour12: false })
  const ms = String(at.getMilliseconds()).padStart(3, '0')
  return today ? `${text}.${ms}` : `${at.toLocaleDateString('sv')} ${text}`
}

/** Characters that do not show, or that turn the direction of what stands beside them. */
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g

/** Foreign text on one line, hidden characters shown. */
export const visible = (text: string): string =>
  text.replace(HIDDEN, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`)

/** A JSON value on one line of about so many characters; large values are not walked to their end. */
export function preview(value: unknown, most: number): string {
  let text = ''
  const write = (part: unknown): void => {
    if (text.length >= most) return
    if (typeof part === 'string') text += JSON.stringify(part.slice(0, most))
    else if (Array.isArray(part)) list('[', ']', part, write)
    else if (part !== null && typeof part === 'object')
      list('{', '}', Object.keys(part), (key) => {
        text += `${JSON.stringify(key)}:`
        write((part as Record<string, unknown>)[key])
      })
    else text += String(part)
  }
  const list = <Part>(open: string, close: string, parts: readonly Part[], each: (part: Part) => void): void => {
    text += open
    for (const [i, part] of parts.entries()) {
      if (i > 0) text += ','
      if (text.length >= most) break
      each(part)
    }
    text += close
  }
  write(value)
  return visible(text.length > most ? `${text.slice(0, most)}…` : text)
}

/** About how many characters a JSON value has. */
export function weigh(value: unknown): number {
  if (typeof value === 'string') return value.length + 2
  if (Array.isArray(value)) return value.reduce<number>((sum, part) => sum + weigh(part) + 1, 2)
  if (value !== null && typeof value === 'object')
    return Object.entries(value).reduce((sum, [key, part]) => sum + key.length + weigh(part) + 4, 2)
  return 8
}

/** Small channels that were written just now have no size yet. */
export const sizeText = (size: number | undefined): string => (size === undefined || size === 0 ? '–' : bytes(size))
