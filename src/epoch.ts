/** Epochs. Alone in its file: a page that follows needs this of all the rules of events. */

/** True when two epochs are one history: equal but for the run number that compaction raises (`life.life~run`). */
export function sameHistory(a: string, b: string): boolean {
  return a === b || historyOf(a) === historyOf(b)
}

const historyOf = (epoch: string): string => {
  const tilde = epoch.indexOf('~')
  return tilde < 0 ? epoch : epoch.slice(0, tilde)
}
