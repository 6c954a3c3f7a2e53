/**
 * The router of the calls that are not hot: fastify, with our own reading of JSON, zod to check, and every failure
 * handed to the front, so that it is answered and logged as everywhere else.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from 'node:http'
import type { Readable } from 'node:stream'
import swagger from '@fastify/swagger'
import {
  type FastifyBaseLogger,
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  fastify,
} from 'fastify'
import {
  hasZodFastifySchemaValidationErrors,
  jsonSchemaTransform,
  jsonSchemaTransformObject,
  serializerCompiler,
  validatorCompiler,
  type ZodTypeProvider,
} from 'fastify-type-provider-zod'
import type { AuditedCall } from '../doors/audit.ts'
import { callerOf } from '../doors/callers.ts'
import type { Doors } from '../doors/doors.ts'
import { JSON_BYTES_MAX } from '../doors/limits.ts'
import { check, type Right, rightOf } from '../doors/rights.ts'
import { TidemarkError } from '../errors.ts'
import { checkChannel } from '../event.ts'
import { jsonFields, jsonValue } from '../formats/json.ts'
import type { HotCall } from './front.ts'
import { ALWAYS, readBody } from './http.ts'

export type App = FastifyInstance<Server, IncomingMessage, ServerResponse, FastifyBaseLogger, ZodTypeProvider>

declare module 'fastify' {
  interface FastifyContextConfig {
    /** What the route asks of its caller. */
    right?: Right
  }
  interface FastifyRequest {
    /** What its answer is written to. */
    answer: ServerResponse
    /** The JSON body as it came, checked. Null for a request without a body. */
    bytes: Uint8Array | null
  }
}

/** Sends what is JSON, or whatever the schema says, already: its type is `type`. */
export function sendAsIs(reply: unknown, type: string, payload: string | Buffer | Readable): FastifyReply {
  return (reply as FastifyReply).type(type).send(payload)
}

/**
 * A hot call as a route, for an address in another form than the front looks for: taken before the router reads a body
 * or checks anything, as the call does all of it. What it throws is answered as any failure: nothing was sent then.
 */
export const asRoute = (doors: Doors) => (call: HotCall) => ({
  onRequest: async (request: FastifyRequest, reply: FastifyReply) => {
    await call(request.raw, reply.raw, doors, callerOf(request.raw))
    reply.hijack()
  },
  handler: unasked,
})

export interface AppOptions {
  /** Answers a failure. */
  readonly fail: (req: IncomingMessage, res: ServerResponse, error: unknown) => void
  readonly version: string
  /** Prefix of the calls as callers see it. */
  readonly path: string
  /** Checks every answer against its schema; for tests. */
  readonly checkAnswers: boolean
  /** What is to be told when a call of an admin is over; its caller is asked for at once, for it may hang up. */
  readonly audited: (req: IncomingMessage) => (call: Omit<AuditedCall, 'who' | 'address'>) => void
}

export async function makeApp(options: AppOptions): Promise<App> {
  const { fail } = options
  const app = fastify({
    // It stands behind the front, which calls `app.routing`: this server never listens.
    serverFactory: () => createServer(),
    logger: false,
    // Both compilers are set below: without these, those that it brings along would be loaded.
    schemaController: { compilersFactory: { buildValidator: unasked, buildSerializer: unasked } },
    bodyLimit: JSON_BYTES_MAX,
    // Names are checked by their schemas, whose word is better than "not found".
    routerOptions: { maxParamLength: 2_048 },
    frameworkErrors: (error, request, reply) => {
      reply.hijack()
      fail(request.raw, reply.raw, refusalOf(error))
    },
  }).withTypeProvider<ZodTypeProvider>()

  app.setValidatorCompiler(validatorCompiler)
  app.setSerializerCompiler(options.checkAnswers ? serializerCompiler : () => JSON.stringify)
  app.removeAllContentTypeParsers()
  app.decorateRequest('answer')
  app.decorateRequest('bytes', null)
  // Read by our own hands: counted against what all bodies may take, and checked more strictly than JSON.parse does.
  app.addContentTypeParser('application/json', async (request: FastifyRequest) => {
    const bytes = await readBody(request.raw, request.answer, request.routeOptions.bodyLimit ?? JSON_BYTES_MAX)
    jsonFields(bytes)
    request.bytes = bytes
    return jsonValue(bytes, { start: 0, end: bytes.length })
  })

  const methods = new Methods()
  app.addHook('onRoute', (route) => {
    const { method, url } = route
    methods.add(url, method)
    for (const each of [method].flat()) route.config = { ...route.config, right: rightOf(each, url) }
  })
  app.addHook('onRequest', async (request, reply) => {
    request.answer = reply.raw
    reply.headers(ALWAYS)
    const who = callerOf(request.raw)
    const { right = 'known' } = request.routeOptions.config
    const { channel } = request.params as { readonly channel?: string }
    check(who, right, channel === undefined ? '' : checkChannel(channel))
    if (who.isAdmin && !UNTOLD.has(request.method)) tellOf(options, request, reply.raw)
    // Before a body is read for nothing.
    if (request.is404) throw methods.refusal(request.raw)
  })
  app.addHook('preHandler', async (request) => {
    // A body may come slower than the right to send it ends.
    if (request.bytes === null) return
    const { channel } = request.params as { readonly channel?: string }
    check(callerOf(request.raw), request.routeOptions.config.right ?? 'known', channel ?? '')
  })
  app.setNotFoundHandler((request, reply) => {
    reply.hijack()
    fail(request.raw, reply.raw, methods.refusal(request.raw))
  })
  app.setErrorHandler((error, request, reply) => {
    reply.hijack()
    fail(request.raw, reply.raw, refusalOf(error))
  })

  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Tidemark',
        version: options.version,
        description:
          'An event-sourced queue over an append-only log. Sockets (`/v1/stream`) and the block are told in PROTOCOL.md.',
      },
    },
    transform: (route) => jsonSchemaTransform({ ...route, url: route.url.replace(/^\/v1(?=\/)/, options.path) }),
    transformObject: (page) => completePage(jsonSchemaTransformObject(page) as OpenApiPage),
  })
  return app
}

/** Only what changes something stands in the audit trail: who watches asks each second. */
const UNTOLD: ReadonlySet<string> = new Set(['GET', 'HEAD', 'OPTIONS'])
/** Reading and writing events is no admin's work, whoever does it. */
const DATA_ROUTES: ReadonlySet<string | undefined> = new Set(['/v1/append', '/v1/poll', '/v1/channels/:channel/events'])

/** Takes in histories: its pieces are data, too, and only their end is told. */
export const IMPORT_ROUTE = '/v1/admin/import'

/** When its answer is over, also where nobody was left to take it. */
function tellOf({ audited }: AppOptions, request: FastifyRequest, res: ServerResponse): void {
  const { method, raw } = request
  const route = request.routeOptions.url
  if (route === undefined || DATA_ROUTES.has(route)) return
  const { channel, client } = request.params as { readonly channel?: string; readonly client?: string }
  const tell = audited(raw)
  res.once('close', () => {
    const piece = route === IMPORT_ROUTE ? (request.body as { channel?: string; end?: object } | undefined) : undefined
    if (piece && piece.end === undefined) return
    // A cursor that moves on is data too.
    if (method === 'PUT' && client !== undefined && (request.body as { seek?: boolean } | undefined)?.seek !== true)
      return
    tell({ method, route, channel: channel ?? piece?.channel, client, status: res.statusCode })
  })
}

const unasked = (): never => {
  throw new Error('Nothing asks for this')
}

/** What is looked at of the OpenAPI page. */
type OpenApiPage = Record<string, unknown> & {
  readonly paths: Record<string, Record<string, { readonly responses: Record<string, { description?: string }> }>>
  readonly components: { schemas: Record<string, unknown> }
}

/** Says what each status means, and leaves out the schemas that nothing refers to. */
function completePage(page: OpenApiPage): OpenApiPage {
  for (const operation of Object.values(page.paths).flatMap((path) => Object.values(path)))
    for (const [status, response] of Object.entries(operation.responses))
      response.description =
        status === 'default' ? 'A problem: its `code` says which' : (STATUS_CODES[status] ?? 'As the schema says')
  const { schemas } = page.components
  const kept = new Set<string>()
  const keep = (part: unknown): void => {
    for (const [, name] of JSON.stringify(part).matchAll(/"#\/components\/schemas\/(\w+)"/g))
      if (!kept.has(name!)) {
        kept.add(name!)
        keep(schemas[name!])
      }
  }
  keep(page.paths)
  page.components.schemas = Object.fromEntries(Object.entries(schemas).filter(([name]) => kept.has(name)))
  return page
}

/** What the router refused by itself, in our codes; ours pass. What is left is a failure of the server. */
function refusalOf(error: unknown): unknown {
  if (error instanceof TidemarkError) return error
  if (hasZodFastifySchemaValidationErrors(error)) {
    const errors = error.validation.map(({ instancePath, message }) => ({ pointer: instancePath, detail: message }))
    const where = error.validationContext === 'querystring' ? 'query' : error.validationContext
    return new TidemarkError('bad-request', `The ${where} is not as the schema asks`, { errors })
  }
  const { code, statusCode } = error as Partial<FastifyError>
  if (code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE')
    return new TidemarkError('unsupported-type', 'This call takes application/json')
  if (statusCode === undefined || statusCode < 400 || statusCode >= 500) return error
  return new TidemarkError('bad-request', 'The request can not be read', {}, { cause: error })
}

/** Which methods each address takes, for `method-not-allowed`. */
class Methods {
  readonly #routes: { readonly segments: readonly string[]; readonly methods: Set<string> }[] = []

  /** @param url of a route: `/v1/channels/:channel` */
  add(url: string, method: string | readonly string[]): void {
    const segments = url.split('/')
    let route = this.#routes.find((known) => known.segments.join('/') === url)
    if (route === undefined) {
      route = { segments, methods: new Set() }
      this.#routes.push(route)
    }
    for (const each of [method].flat()) route.methods.add(each)
  }

  refusal(req: IncomingMessage): TidemarkError {
    const path = req.url!.split('?', 1)[0]!.split('/')
    const route = this.#routes.find(
      ({ segments }) =>
        segments.length === path.length &&
        segments.every((segment, i) => segment === path[i] || (segment.startsWith(':') && path[i] !== '')),
    )
    if (route === undefined || route.methods.has(req.method!))
      return new TidemarkError('not-found', 'There is nothing at this address')
    const allow = [...route.methods].sort()
    return new TidemarkError('method-not-allowed', `This address takes ${allow.join(', ')}`, { allow })
  }
}
