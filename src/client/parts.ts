/** The parts of the client that are loaded when they are needed, each a file beside /client.js. */
import { TidemarkError } from '../errors.ts'

let tries = 0

/**
 * A part of the client. One that can not be had now may be had later: a browser may remember by its address that a
 * file failed, so it is then asked for by another one.
 * @throws unavailable
 */
export const load = <Part>(name: string, plainly: () => Promise<Part>): Promise<Part> =>
  plainly()
    .catch(() => import(/* @vite-ignore */ `./client-${name}.js?again=${++tries}`))
    .catch((cause) => {
      throw new TidemarkError('unavailable', `No ${name}`, {}, { cause })
    })

/** All that goes over HTTP: calls and polls. */
export const loadPolls = () => load('poll', () => import('./poll.ts'))
