/** Chance that can be thrown again: all that a cycle does by chance comes from its seed. */
export type Dice = (below: number) => number

/** Whole numbers from 0 to below − 1 (mulberry32). @param seed a whole number; neighbours give unlike throws */
export function dice(seed: number): Dice {
  let state = (Math.imul(seed % 2 ** 32, 0x9e3779b1) ^ Math.floor(seed / 2 ** 32)) >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below)
  }
}
