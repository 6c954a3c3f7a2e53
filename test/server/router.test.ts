import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, test, vi } from 'vitest'
import type { App } from '../../src/server/app.ts'
import { Router } from '../../src/server/router.ts'

const answer = (req: IncomingMessage, res: ServerResponse) => res.end(`routed ${req.url}`)
const app = (routing = answer): App => ({ routing, close: vi.fn(async () => undefined) }) as unknown as App
const fail = (_: IncomingMessage, res: ServerResponse, error: unknown) => {
  res.statusCode = 500
  res.end(String(error))
}

function later<T>() {
  let resolve = (_: T): void => {}
  const promise = new Promise<T>((done) => {
    resolve = done
  })
  return { promise, resolve }
}

describe('the way to the router', () => {
  const closing: (() => void)[] = []
  afterEach(() => {
    for (const close of closing.splice(0)) close()
  })

  async function serve(router: Router): Promise<number> {
    const server = createServer(router.route)
    closing.push(() => server.close())
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    return (server.address() as AddressInfo).port
  }
  const ask = async (port: number, path: string) => (await fetch(`http://127.0.0.1:${port}${path}`)).text()

  test('calls wait for it, and it is made once', async () => {
    const made = later<App>()
    const make = vi.fn(() => made.promise)
    const port = await serve(new Router(make, fail))
    const answers = Promise.all([ask(port, '/a'), ask(port, '/b')])
    await vi.waitFor(() => expect(make).toHaveBeenCalled())
    made.resolve(app())
    expect(await answers).toEqual(['routed /a', 'routed /b'])
    expect(await ask(port, '/c')).toBe('routed /c')
    expect(make).toHaveBeenCalledTimes(1)
  })

  test('a call whose caller hung up meanwhile is not routed', async () => {
    const made = later<App>()
    const routing = vi.fn(answer)
    let closed: Promise<void> | undefined
    const router = new Router(() => made.promise, fail)
    const server = createServer((req, res) => {
      closed = new Promise((resolve) => res.once('close', resolve))
      router.route(req, res)
    })
    closing.push(() => server.close())
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const call = request({ port: (server.address() as AddressInfo).port, host: '127.0.0.1' }).on(
      'error',
      () => undefined,
    )
    call.end()
    await vi.waitFor(() => expect(closed).toBeDefined())
    call.destroy()
    await closed
    made.resolve(app(routing))
    await made.promise
    await router.close()
    expect(routing).not.toHaveBeenCalled()
  })

  test('when it can not be loaded, every call is told so', async () => {
    const port = await serve(new Router(() => Promise.reject(new Error('gone')), fail))
    expect(await ask(port, '/a')).toBe('Error: gone')
    expect(await ask(port, '/b')).toBe('Error: gone')
  })

  test('what it throws at a call that waited for it is told to that call', async () => {
    const throws = () => {
      throw new Error('not routed')
    }
    const port = await serve(new Router(async () => app(throws), fail))
    expect(await ask(port, '/a')).toBe('Error: not routed')
  })

  test('it is loaded a little later though no call wants it, unless the server stopped', async () => {
    vi.useFakeTimers()
    try {
      const make = vi.fn(async () => app())
      const stopped = new Router(make, fail)
      stopped.loadSoon(() => undefined)
      await stopped.close()
      vi.advanceTimersByTime(60_000)
      expect(make).not.toHaveBeenCalled()
      const onFailed = vi.fn()
      const failing = new Router(() => Promise.reject(new Error('gone')), fail)
      failing.loadSoon(onFailed)
      await vi.advanceTimersByTimeAsync(60_000)
      expect(onFailed).toHaveBeenCalledTimes(1)
      await failing.close()
    } finally {
      vi.useRealTimers()
    }
  })

  test('closing it closes what was loaded', async () => {
    const loaded = app()
    const router = new Router(async () => loaded, fail)
    const port = await serve(router)
    await ask(port, '/a')
    await router.close()
    expect(loaded.close).toHaveBeenCalledTimes(1)
  })
})
