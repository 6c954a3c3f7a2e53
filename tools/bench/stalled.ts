/** Sockets that follow a channel and never read: what P11 is about. They live in this process and cost it nothing. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'

/** Connections that are opened at once. */
const AT_ONCE = 50

/**
 * Opens `count` sockets that send the opening (requests.ts `subscription`), read their upgrade and nothing after it.
 * Resolves when all stand; returns how to end them.
 */
export async function neverReading(port: number, opening: Uint8Array, count: number): Promise<() => void> {
  const sockets: Socket[] = []
  const open = async (): Promise<void> => {
    const socket = connect(port, '127.0.0.1')
    sockets.push(socket)
    // The server may close a socket that takes nothing; that is its right.
    socket.on('error', () => socket.destroy())
    socket.write(opening)
    await once(socket, 'data')
    socket.pause()
  }
  for (let at = 0; at < count; at += AT_ONCE)
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, count - at) }, open))
  return () => {
    for (const socket of sockets) socket.destroy()
  }
}
