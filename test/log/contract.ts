/**
 * What every engine promises, one test a promise, in the words of src/log/log.ts. An engine passes it whole or says by
 * its capabilities what it can not do.
 */
import { describe, expect, test } from 'vitest'
import type { Capability, Log } from '../../src/log/log.ts'
import { appendContract } from './contract-append.ts'
import { arriveContract } from './contract-arrive.ts'
import { channelContract } from './contract-channels.ts'
import { compactContract } from './contract-compact.ts'
import { cursorContract } from './contract-cursors.ts'
import { eraseContract } from './contract-erase.ts'
import { readContract } from './contract-read.ts'
import { repeatContract } from './contract-repeat.ts'
import { stateContract } from './contract-state.ts'

export interface OpenOptions {
  /** A place that is opened again under the same name holds what it held. Absent: a fresh one. */
  readonly at?: string
  /** Nothing was ever in it; where it can be had for less otherwise, one that was emptied will do. */
  readonly isUntouched?: boolean
}

/** Opens a log and closes it when the test ends, unless the test did. */
export type Open = (options?: OpenOptions) => Promise<Log>

let places = 0
/** A place that no other test has. */
export const somewhere = (): string => `place-${process.pid}-${++places}`

export function logContract(name: string, open: Open, capabilities: readonly Capability[]): void {
  describe(`${name}: the log`, () => {
    test('says what it is and what it can do', async () => {
      const { about } = await open()
      expect([...about.capabilities].sort()).toEqual([...capabilities].sort())
      expect(about.idWindow).toBeGreaterThanOrEqual(120_000)
      expect(['fsync', 'replicated', 'memory', 'unknown']).toContain(about.durability)
    })
    describe('append', () => appendContract(open, capabilities))
    describe('repeated appends', () => repeatContract(open, capabilities))
    describe('read and changed', () => readContract(open))
    describe('cursors', () => cursorContract(open))
    describe('compact', () => compactContract(open, capabilities))
    describe('erase', () => eraseContract(open, capabilities))
    describe('rows of states', () => stateContract(open, capabilities))
    describe('trim, delete, channels and close', () => channelContract(open))
    describe('histories from elsewhere', () => arriveContract(open))
  })
}
