import fc from 'fast-check'
import { expect, test } from 'vitest'
import { BACKOFF_BASE_MS, BACKOFF_MAX_MS, HINT_MAX_MS, newBackoff } from '../../src/client/backoff.ts'
import { SEED } from '../parts.ts'

test('a delay is anywhere below a ceiling that doubles with each failure up to its most', () => {
  fc.assert(
    fc.property(fc.array(fc.double({ min: 0, max: 0.999999, noNaN: true }), { maxLength: 40 }), (draws) => {
      let draw = 0
      const backoff = newBackoff(undefined, undefined, () => draws[draw++]!)
      for (let failure = 0; failure < draws.length; failure++) {
        const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_BASE_MS * 2 ** failure)
        expect(backoff.next()).toBe(draws[failure]! * ceiling)
      }
    }),
    { seed: SEED },
  )
})

test('a hint is waited for, and the jitter comes on top of it', () => {
  const backoff = newBackoff(100, 1_000, () => 0.5)
  expect(backoff.next(2_000)).toBe(2_050)
  expect(backoff.next(2_000)).toBe(2_100)
})

test('a hint beyond reason counts as the longest one', () => {
  expect(newBackoff(100, 1_000, () => 0).next(1e12)).toBe(HINT_MAX_MS)
})

test('after a reset the delays are short again', () => {
  const backoff = newBackoff(100, 1_000, () => 0.5)
  backoff.next()
  backoff.next()
  backoff.reset()
  expect(backoff.next()).toBe(50)
})
