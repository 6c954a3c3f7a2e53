/** Chance that can be thrown again: all that a cycle does by chance comes from its seed. */
export type Dice = (below: number) => number

/** Whole numbers from 0 to below − 1 (mulberry32). */
export function dice(seed: number): Dice {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) % below
  }
}
