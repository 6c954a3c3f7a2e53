/** The parts of the client that are loaded when they are needed, each a file beside /client.js. */
import { TidemarkError } from '../errors.ts'

let tries = 0
/** What came, or is on its way. */
const parts: Record<string, Promise<unknown> | undefined> = {}

/**
 * A part of the client. One that can not be had now may be had later: a browser may remember by its address that a
 * file failed, so it is then asked for by another one. One that came is asked for no more.
 * @throws unavailable
 */
export const load = <Part>(name: string, plainly: () => Promise<Part>): Promise<Part> => {
  parts[name] ??= plainly()
    .catch(() => import(/* @vite-ignore */ `./client-${name}.js?again=${++tries}`))
    .catch((cause) => {
      parts[name] = undefined
      throw new TidemarkError('unavailable', `No ${name}`, {}, { cause })
    })
  return parts[name] as Promise<Part>
}

/** All that goes over HTTP: calls and polls. */
export const loadPolls = () => load('poll', () => import('./poll.ts'))
