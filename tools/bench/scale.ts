import type { Sync } from './nats.ts'

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
  /** W6: many stored events, if they are more than for show, and channels that hold `stored` events together. */
  readonly storedMany: number | undefined
  readonly storedChannels: number
  /** W1: numbers of channels, beside one. */
  readonly channels: readonly number[]
  /** Idle sockets of W5. */
  readonly idle: readonly number[]
  /** W7: clients that wait in a long poll, events a second, channels of one request to `/v1/poll`. */
  readonly waiting: number
  readonly waitingRate: number
  readonly polledChannels: number
  /** W9: how NATS writes to disk; numbers of channels that a nats-server holds, the first to compare the others with. */
  readonly syncs: readonly Sync[]
  readonly heldChannels: readonly number[]
  readonly mixed: Mixed
  readonly curves: Curves
}

/** Points of the cost curves; the first of each is what the others are compared with. */
export interface Curves {
  readonly channels: readonly number[]
  readonly subscribers: readonly number[]
  readonly stored: readonly number[]
  /** Sockets of the fan-out, where their number is not the point. */
  readonly sockets: number
  readonly seconds: number
  readonly warm: number
}

/** W8. */
export interface Mixed {
  /** In all, those that never read included. */
  readonly sockets: number
  readonly channels: number
  /** Events a second. */
  readonly rate: number
  /** Sockets that are cut and resume, at least one for each channel; how many of them each minute. */
  readonly roaming: number
  readonly cut: number
  /** Sockets that never read. */
  readonly stalled: number
  readonly minutes: number
  /** Less than 60 to show that it works. */
  readonly minuteSeconds: number
  readonly sampleSeconds: number
}

export const FULL: Scale = {
  seconds: 3,
  warm: 4,
  producers: 64,
  batch: 100,
  inFlight: 100,
  fanout: [1, 100, 1_000],
  publishers: 16,
  rate: 1_000,
  subscribers: 100,
  stalled: 1_000,
  stored: 1_000_000,
  storedMany: 10_000_000,
  storedChannels: 100_000,
  channels: [64, 10_000],
  idle: [1_000, 5_000],
  waiting: 1_000,
  waitingRate: 10,
  polledChannels: 10,
  syncs: ['always', 'default'],
  heldChannels: [1, 100_000],
  mixed: {
    sockets: 5_000,
    channels: 500,
    rate: 2_000,
    roaming: 500,
    cut: 250,
    stalled: 50,
    minutes: 20,
    minuteSeconds: 60,
    sampleSeconds: 5,
  },
  curves: {
    channels: [1, 1_000, 10_000, 100_000],
    subscribers: [1, 100, 1_000, 5_000],
    stored: [0, 1_000_000, 10_000_000, 50_000_000],
    sockets: 100,
    seconds: 2,
    warm: 0.5,
  },
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
  stored: 12_000,
  storedMany: undefined,
  storedChannels: 600,
  channels: [20, 200],
  idle: [50],
  waiting: 20,
  waitingRate: 50,
  polledChannels: 3,
  syncs: ['default'],
  heldChannels: [200],
  mixed: {
    sockets: 50,
    channels: 5,
    rate: 100,
    roaming: 10,
    cut: 5,
    stalled: 3,
    minutes: 4,
    minuteSeconds: 0.5,
    sampleSeconds: 0.2,
  },
  curves: {
    channels: [1, 20],
    subscribers: [1, 10],
    stored: [0, 3_000],
    sockets: 5,
    seconds: 0.1,
    warm: 0.05,
  },
}
