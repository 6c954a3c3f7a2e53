/** The runs in the background of one server, whichever work they are: those under way, and the last ones that ended. */
import type { RunJson } from '../wire.ts'

/** Runs that ended and are remembered. */
const ENDED_MAX = 50

export class Runs {
  /** The newest first. */
  #runs: (() => RunJson)[] = []

  /** @param told how the run is, whenever it is asked */
  add(told: () => RunJson): void {
    let ended = 0
    this.#runs = [told, ...this.#runs.filter((each) => each().running || ++ended < ENDED_MAX)]
  }

  list(): RunJson[] {
    return this.#runs.map((told) => told())
  }
}
