/**
 * What a program gets from `import … from 'tidemark/client'`: in Node this module, in a bundle for browsers /client.js,
 * which gives the same values. The types are those of both.
 */
import { Tidemark as Client, type TidemarkOptions } from './client/client.ts'
import { NodeSocket } from './client/node.ts'

export type { Channel, TidemarkOptions } from './client/client.ts'
export type { State } from './client/connection.ts'
export type { EventOptions, FollowOptions, Gap, Reset } from './client/follow.ts'
export type { AppendOptions } from './client/outbox.ts'
export type { ReadOptions } from './client/read.ts'
export type { ChannelState, StateOptions } from './client/state.ts'
export type { ChannelEvent, Item } from './client/subscription.ts'
export type { TokenSource } from './client/token.ts'
export { type ErrorCode, TidemarkError } from './errors.ts'
export type { AppendedJson, NewEventJson, PageJson } from './wire.ts'

/** The client. Its WebSocket is that of `ws`, which every Node has and which can stop reading; `WebSocket` names another. */
export class Tidemark extends Client {
  /** @throws bad-request */
  constructor(url: string | URL, options: TidemarkOptions = {}) {
    super(url, { WebSocket: NodeSocket as unknown as TidemarkOptions['WebSocket'], ...options })
  }
}
