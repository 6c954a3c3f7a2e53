/** A way to the server on which answers get lost: the request arrives and is answered, and the connection breaks. */
import { once } from 'node:events'
import { createServer, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { onTestFinished } from 'vitest'

/** @param loses is asked for each answer to a POST. Returns the address in front of `url`. */
export async function losingAnswers(url: string, loses: () => boolean): Promise<string> {
  const server = createServer((req, res) => {
    const { host: _, ...headers } = req.headers
    const onward = request(new URL(req.url!, url), { method: req.method!, headers }, (answer) => {
      if (req.method === 'POST' && loses()) {
        answer.resume()
        answer.on('end', () => res.destroy())
        return
      }
      res.writeHead(answer.statusCode!, answer.headers)
      answer.pipe(res)
    })
    onward.on('error', () => res.destroy())
    req.pipe(onward)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}
