/** What a misspelt word may have meant. */

/** Most edits of what is still the same word; a longer difference in length is not looked at. */
const EDITS_MAX = 3

/** The known word with the fewest edits to this one, if they are few for its length. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  let near: string | undefined
  let fewest = EDITS_MAX + 1
  for (const candidate of known) {
    if (Math.abs(candidate.length - word.length) > EDITS_MAX) continue
    const edits = editsBetween(word, candidate)
    if (edits >= fewest) continue
    near = candidate
    fewest = edits
  }
  return near !== undefined && fewest <= Math.max(1, near.length / 3) ? near : undefined
}

/** Letters put in, left out, changed, or swapped with their neighbour (optimal string alignment). */
function editsBetween(a: string, b: string): number {
  const rows: number[][] = [Array.from({ length: b.length + 1 }, (_, j) => j)]
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const above = rows[i - 1]!
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]
      row.push(
        Math.min(
          above[j]! + 1,
          row[j - 1]! + 1,
          above[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1),
          swapped ? rows[i - 2]![j - 2]! + 1 : Number.POSITIVE_INFINITY,
        ),
      )
    }
    rows.push(row)
  }
  return rows[a.length]![b.length]!
}
