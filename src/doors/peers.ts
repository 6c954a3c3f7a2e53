/**
 * From where a request comes: the connection's other end, or whom a trusted proxy names there. What `X-Forwarded-…` says
 * counts from such a proxy alone: everybody else could say it too.
 */
import type { IncomingMessage } from 'node:http'
import { BlockList, isIP, isIPv4 } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { TidemarkError } from '../errors.ts'

export interface PeersOptions {
  /** Addresses and networks of the proxies that are believed: `10.0.0.7`, `10.1.0.0/16`, `fd00::/8`. */
  readonly trustedProxies: readonly string[]
  /** A proxy adds the TLS that callers see. */
  readonly tlsUpstream: boolean
}

/** Empty for a request that has lost its connection: Node takes it away from one whose body stopped being HTTP. */
const otherEnd = ({ socket }: IncomingMessage): string =>
  plainAddress((socket as IncomingMessage['socket'] | null)?.remoteAddress ?? '')

export class Peers {
  readonly #trusted: BlockList | undefined
  readonly #tlsUpstream: boolean

  /** @throws wrong-config for what is no address or network */
  constructor({ trustedProxies, tlsUpstream }: PeersOptions) {
    this.#trusted = trustedProxies.length === 0 ? undefined : networks(trustedProxies)
    this.#tlsUpstream = tlsUpstream
  }

  /** The address of who calls: the rightmost that no trusted proxy has, for what stands left of it anybody may say. */
  address(req: IncomingMessage): string {
    let address = otherEnd(req)
    const forwarded = req.headers['x-forwarded-for']
    if (this.#trusted === undefined || forwarded === undefined) return address
    const told = String(forwarded).split(',')
    while (this.#isTrusted(address)) {
      const before = told.pop()
      const next = before === undefined ? '' : plainAddress(withoutPort(before.trim()))
      if (isIP(next) === 0) return address
      address = next
    }
    return address
  }

  /** Whether the caller's own connection is TLS, to this server or to the proxy before it. */
  isSecure(req: IncomingMessage): boolean {
    if ((req.socket as TLSSocket | null)?.encrypted) return true
    const told = req.headers['x-forwarded-proto']
    if (told !== undefined && this.#isTrusted(otherEnd(req)))
      return String(told).split(',').at(-1)!.trim().toLowerCase() === 'https'
    // By a loopback name it is called on this machine, past the proxy.
    return this.#tlsUpstream && !isLoopback(nameOf(req.headers.host?.toLowerCase() ?? ''))
  }

  #isTrusted(address: string): boolean {
    const version = isIP(address)
    return version !== 0 && this.#trusted?.check(address, version === 4 ? 'ipv4' : 'ipv6') === true
  }
}

function networks(given: readonly string[]): BlockList {
  const list = new BlockList()
  for (const text of given) {
    const [address = '', bits, ...rest] = text.split('/')
    const version = isIP(address)
    const most = version === 4 ? 32 : 128
    const length = bits === undefined ? most : /^\d{1,3}$/.test(bits) ? Number(bits) : Number.NaN
    if (version === 0 || rest.length > 0 || !(length <= most))
      throw new TidemarkError(
        'wrong-config',
        `--trusted-proxy takes an address or a network (10.1.0.0/16), not ${text}`,
      )
    list.addSubnet(address, length, version === 4 ? 'ipv4' : 'ipv6')
  }
  return list
}

/** IPv4 as such, also where it came on a socket of IPv6; without the name of an interface. */
export const plainAddress = (address: string): string =>
  /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1] ?? address.replace(/%.*$/, '')

/** Some proxies tell the port too: `192.0.2.1:5034`, `[2001:db8::1]:443`. */
const withoutPort = (told: string): string =>
  /^\[(.*)\](?::\d+)?$|^([\d.]+):\d+$/.exec(told)?.slice(1).find(Boolean) ?? told

/** `localhost:7070` → `localhost`, `[::1]:7070` → `[::1]`. */
export function nameOf(host: string): string {
  const end = host.startsWith('[') ? host.indexOf(']') + 1 : host.indexOf(':')
  return end <= 0 ? host : host.slice(0, end)
}

/** @param name of a host without its port, IPv6 with or without brackets. */
export function isLoopback(name: string): boolean {
  const host = name.toLowerCase()
  if (host === 'localhost' || host.endsWith('.localhost')) return true
  if (host === '::1' || host === '[::1]') return true
  return host.startsWith('127.') && isIPv4(host)
}
