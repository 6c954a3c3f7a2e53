import { expect, test } from 'vitest'
import { call } from './calls.ts'
import { startTestServer } from './serve.ts'

/** Every call of the protocol, with its methods. */
const CALLS: Record<string, string> = {
  '/v1/channels/{channel}/events': 'get post',
  '/v1/channels/{channel}/state': 'get',
  '/v1/events': 'get',
  '/v1/append': 'post',
  '/v1/poll': 'post',
  '/v1/session': 'delete post',
  '/v1/stream': 'get',
  '/v1/channels': 'get',
  '/v1/channels/{channel}': 'delete get put',
  '/v1/channels/{channel}/trim': 'post',
  '/v1/channels/{channel}/compact': 'delete get post',
  '/v1/channels/{channel}/erase': 'delete get post',
  '/v1/channels/{channel}/cursors': 'get',
  '/v1/channels/{channel}/cursors/{client}': 'delete get put',
  '/v1/cursors/{client}': 'get',
  '/v1/admin/status': 'get',
  '/v1/admin/figures': 'get',
  '/v1/admin/heads': 'get',
  '/v1/admin/cursors': 'get',
  '/v1/admin/connections': 'get',
  '/v1/admin/settings': 'get',
  '/v1/admin/space': 'get',
  '/v1/admin/retention': 'get',
  '/v1/admin/runs': 'get',
  '/v1/admin/streamer': 'get put',
  '/v1/admin/verify': 'get post',
  '/v1/admin/import': 'post',
  '/livez': 'get',
  '/readyz': 'get',
  '/metrics': 'get',
  '/openapi.json': 'get',
  '/errors': 'get',
  '/client.js': 'get',
  '/client-append.js': 'get',
  '/client-poll.js': 'get',
  '/client-msgpack.js': 'get',
  '/client-bell.js': 'get',
  '/client-state.js': 'get',
}

type Json = Record<string, unknown>
interface Operation {
  summary?: string
  parameters?: { name: string; in: string; required?: boolean; schema?: Json }[]
  requestBody?: { content: Record<string, { schema: Json }> }
  responses: Record<string, { description?: string; content?: Record<string, { schema: Json }> }>
}

async function page() {
  const { url } = await startTestServer({ version: '1.2.3' })
  const { status, headers, json } = await call(`${url}/openapi.json`)
  expect(status).toBe(200)
  expect(headers.get('content-type')).toMatch(/^application\/json/)
  return {
    url,
    document: json as { openapi: string; info: Json; paths: Record<string, Json>; components: { schemas: Json } },
  }
}

const operations = (paths: Record<string, Json>) =>
  Object.entries(paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({ path, method, operation: operation as Operation })),
  )

test('every call stands on the page, and nothing else', async () => {
  const { document } = await page()
  const found = Object.entries(document.paths).map(([path, item]) => [
    path,
    Object.keys(item)
      .filter((method) => method !== 'head')
      .sort()
      .join(' '),
  ])
  expect(Object.fromEntries(found)).toEqual(CALLS)
})

test('it has the shape of OpenAPI 3.1', async () => {
  const { document } = await page()
  expect(document.openapi).toMatch(/^3\.1\.\d+$/)
  expect(document.info).toMatchObject({ title: 'Tidemark', version: '1.2.3' })
  for (const { path, method, operation } of operations(document.paths)) {
    const where = `${method} ${path}`
    expect([where, operation.summary]).toEqual([where, expect.any(String)])
    const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name)
    const parameters = operation.parameters ?? []
    expect([where, parameters.filter((each) => each.in === 'path').map(({ name }) => name)]).toEqual([where, inPath])
    for (const parameter of parameters) {
      expect(['path', 'query', 'header']).toContain(parameter.in)
      if (parameter.in === 'path') expect(parameter.required).toBe(true)
      expect([where, parameter.name, typeof parameter.schema?.type]).toEqual([where, parameter.name, 'string'])
    }
    expect(Object.keys(operation.responses.default!.content!)).toEqual(['application/problem+json'])
    for (const [status, response] of Object.entries(operation.responses)) {
      expect(status).toMatch(/^(?:[1-5]\d\d|default)$/)
      expect([where, status, typeof response.description]).toEqual([where, status, 'string'])
    }
    if (operation.requestBody) expect(Object.keys(operation.requestBody.content)).toContain('application/json')
  }
})

test('every reference on it leads somewhere, and schemas are told once', async () => {
  const { document } = await page()
  const text = JSON.stringify(document)
  const references = new Set([...text.matchAll(/"\$ref":"([^"]+)"/g)].map(([, reference]) => reference!))
  expect(references.size).toBeGreaterThan(10)
  for (const reference of references) {
    const [, name] = /^#\/components\/schemas\/(\w+)$/.exec(reference) ?? []
    expect([reference, name !== undefined && name in document.components.schemas]).toEqual([reference, true])
  }
  const unused = Object.keys(document.components.schemas).filter(
    (name) => !references.has(`#/components/schemas/${name}`),
  )
  expect(unused).toEqual([])
  expect(text).not.toContain('"$schema"')
  expect(text).not.toContain('"nullable"')
})

test('what it says of a body is what is checked', async () => {
  const { document } = await page()
  const { CursorMoveInput: move, TrimInput: trim } = document.components.schemas as Record<string, Json>
  expect(move).toMatchObject({ type: 'object', required: ['seq'], additionalProperties: false })
  expect(trim).toMatchObject({ additionalProperties: false })
  expect(Object.keys(trim!.properties as Json)).toEqual(['upTo', 'olderThan', 'keepLast', 'epoch'])
})
