/** How large a run is. Names are those of the measured rows, so a small run never passes for a full one. */
export interface Scale {
  /** Measured time of a row, and the warm-up before it, seconds. */
  readonly seconds: number
  readonly warm: number
  readonly producers: number
  readonly batch: number
  /** Appends in flight on each WebSocket, beside 1. */
  readonly inFlight: number
  /** Numbers of subscribers (W2), and of publishers beside 1. */
  readonly fanout: readonly number[]
  readonly publishers: number
  /** W3: events a second, subscribers. */
  readonly rate: number
  readonly subscribers: number
  /** W3: sockets that never read, beside them in one row. */
  readonly stalled: number
  /** Stored events of W4 and W6. */
  readonly stored: number
  /** Idle sockets of W5. */
  readonly idle: readonly number[]
}

export const FULL: Scale = {
  seconds: 3,
  warm: 1,
  producers: 64,
  batch: 100,
  inFlight: 100,
  fanout: [1, 100, 1_000],
  publishers: 16,
  rate: 1_000,
  subscribers: 100,
  stalled: 1_000,
  stored: 1_000_000,
  idle: [1_000, 5_000],
}

/** Shows that everything runs and counts; its figures mean nothing. */
export const QUICK: Scale = {
  seconds: 0.1,
  warm: 0.05,
  producers: 8,
  batch: 20,
  inFlight: 10,
  fanout: [10],
  publishers: 4,
  rate: 200,
  subscribers: 10,
  stalled: 20,
  stored: 20_000,
  idle: [50],
}
