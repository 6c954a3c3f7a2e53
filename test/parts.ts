/** Real parts for tests: a log in a directory of its own, cleaned when the test ends. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { type Body, encodeBody } from '../src/body.ts'
import type { NewEvent } from '../src/event.ts'
import type { Log } from '../src/log/log.ts'
import { type LogOptions, openLog } from '../src/log/open.ts'

export function tempDir(): string {
  const dir = mkdtempSync(join(tmpdir(), 'tidemark-'))
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

/** A log on a fresh directory, closed when the test ends. */
export async function tempLog(options: Partial<LogOptions> = {}): Promise<Log> {
  const log = await openLog({ dir: tempDir(), ...options })
  onTestFinished(() => log.close())
  return log
}

export function event(data: unknown, fields: Partial<NewEvent> = {}): NewEvent {
  const bytes = data === undefined ? null : new TextEncoder().encode(JSON.stringify(data))
  return { type: null, key: null, id: null, contentType: null, to: null, data: bytes, ...fields }
}

/** A body of one event per value. */
export const body = (...values: unknown[]): Body => encodeBody(values.map((value) => event(value)))

/** One event of so many bytes. */
export const bigBody = (id: string, bytes: number): Body =>
  encodeBody([{ ...event(0), id, contentType: 'application/octet-stream', data: new Uint8Array(bytes) }])

export const range = (first: number, last: number): number[] =>
  Array.from({ length: last - first + 1 }, (_, i) => first + i)

/** A seed that a failing run can be repeated with: `TEST_SEED=… npm test`. */
export const SEED = Number(process.env.TEST_SEED ?? Math.floor(Math.random() * 2 ** 31))
