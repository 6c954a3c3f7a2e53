/** The console as a person meets it: each page, hostile names and data, the keyboard, many channels. */
import type { Browser } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import { GroupFigures } from '../../src/doors/counts.ts'
import { readRetentionRule } from '../../src/retention.ts'
import { CHROMIUM, launch } from '../chromium.ts'
import { dice } from '../crash/dice.ts'
import { body, event, range, SEED, tempDir, tempLog } from '../parts.ts'
import { startGuarded } from '../server/guarded.ts'
import { logWith, startTestServer } from '../server/serve.ts'
import { openConsole } from './opened.ts'

const PATIENCE = { timeout: 15_000, interval: 50 }

describe.skipIf(!CHROMIUM)('the console', () => {
  let browser: Browser
  beforeAll(async () => {
    browser = await launch()
  })
  afterAll(() => browser?.close())

  async function served(options: Parameters<typeof startTestServer>[0] = {}) {
    const groupFigures = new GroupFigures()
    const dir = tempDir()
    const log = await tempLog({ dir, onGroup: groupFigures.add })
    const shown = [{ name: 'port', value: '7070', from: 'default' }]
    const server = await startTestServer({ log, groupFigures, dir, shown, ...options })
    return { ...server, log }
  }

  test('each page renders, under a policy that nothing breaks, whatever path and host it is reached by', async () => {
    const { url, log, port } = await served({ path: '/tide/v1' })
    await log.append([{ channel: 'orders/eu', body: body({ total: 7 }) }])
    await log.commit('shop', 'orders/eu', { seq: 1 })
    const { page, wrong, go } = await openConsole(browser, url.replace('127.0.0.1', 'console.localhost'))
    await page.getByText('answers after fsync').waitFor()
    for (const chart of ['Events', 'Heads', 'Writes', 'Followers'])
      await page.locator('.chart', { hasText: chart }).first().locator('canvas').waitFor()
    await log.append([{ channel: 'orders/eu', body: body(...range(1, 20)) }])
    const appended = page.locator('.legend li', { hasText: 'appended' }).locator('b')
    await vi.waitFor(async () => expect(await appended.textContent()).toMatch(/\d/), PATIENCE)

    await go('#/channels')
    await page.getByRole('gridcell', { name: 'orders/eu' }).waitFor()
    await page.getByRole('link', { name: 'orders/eu' }).click()
    await page.getByRole('gridcell', { name: '{"total":7}' }).waitFor()
    expect(await page.title()).toBe('orders/eu – Tidemark')
    await page.getByText('live over a WebSocket').waitFor()
    await go('#/cursors')
    await page.getByRole('row', { name: /shop orders\/eu 20/ }).waitFor()
    await go('#/connections')
    await page
      .getByText('WebSocket', { exact: true })
      .or(page.getByText('idle', { exact: true }))
      .first()
      .waitFor()
    await go('#/settings')
    await page.getByRole('row', { name: 'port 7070 default' }).waitFor()
    await page.getByText(`http://127.0.0.1:${port}/tide/v1`).waitFor()
    await go('#/nowhere')
    await page.getByText('Nothing here').waitFor()
    expect(wrong).toEqual([])
  })

  test('hostile names and data stay text', async () => {
    const { url, log } = await served()
    const markup = '<img src=x onerror="globalThis.hacked=1"><script>globalThis.hacked=1</script>'
    const turned = 'abc\u202egpj.exe'
    const long = 'n'.repeat(200)
    for (const channel of ['__proto__', 'constructor', long]) await log.append([{ channel, body: body(1) }])
    await log.configure('__proto__', { note: markup + turned })
    const data = JSON.parse(`{"__proto__":{"polluted":1},"markup":${JSON.stringify(markup)},"turned":"${turned}"}`)
    await log.append([{ channel: '__proto__', body: encodeBody([event(data, { key: markup, id: '<b>id</b>' })]) }])
    await log.commit('__proto__', '__proto__', { seq: 1 })
    const { page, wrong, go } = await openConsole(browser, url, '#/channels')
    for (const name of ['__proto__', 'constructor', long]) await page.getByRole('link', { name, exact: true }).waitFor()
    await page.getByRole('link', { name: '__proto__', exact: true }).click()
    await page.getByText(`${markup}abc\\u202egpj.exe`).waitFor()
    await page.getByRole('grid').getByText('<img src=x').first().click()
    const opened = page.getByRole('complementary', { name: 'Event 2' })
    await opened.getByText('polluted').waitFor()
    expect(await opened.textContent()).toContain('<img src=x onerror=')
    expect(await opened.textContent()).toContain('abc\\u202egpj.exe')
    await go('#/cursors?channel=__proto__')
    await page.getByRole('row', { name: /^__proto__ __proto__ 1/ }).waitFor()
    await go(`#/channels/${encodeURIComponent(markup)}`)
    await page.getByText('bad-request').waitFor()
    expect(await page.locator('img, main script, b:has-text("id")').count()).toBe(0)
    expect(await page.evaluate(() => [Reflect.get(globalThis, 'hacked'), Reflect.get({}, 'polluted')])).toEqual([
      undefined,
      undefined,
    ])
    expect(wrong).toEqual([])
  })

  test('what a channel keeps is changed and compacted after a look at what goes, and its run is told as it goes', async () => {
    const log = await tempLog()
    let go = (): void => {}
    const held = new Promise<void>((resolve) => {
      go = resolve
    })
    const slow = logWith(log, {
      replace: async (channel, replacement) => {
        await held
        return log.replace!(channel, replacement)
      },
    })
    const { url } = await startTestServer({ log: slow, retain: [readRetentionRule('files: events=5000')] })
    for (const i of range(0, 119)) {
      const events = range(1, 10).map((n) => event(i * 10 + n, { key: `k${n % 3}` }))
      await log.append([{ channel: 'files', body: encodeBody(events) }])
    }
    await log.configure('files', { note: 'stays', state: true })
    for (const channel of ['a', 'b']) await log.append([{ channel, body: body(1) }])
    const { page, wrong, go: goTo } = await openConsole(browser, url, '#/keeping', 1280)
    const names = () => page.locator('.space tbody td:first-child').allTextContents()
    const sorted = (name: string) => page.getByRole('columnheader', { name }).getAttribute('aria-sort')
    const box = (text: string) => page.getByRole('heading', { name: text, exact: true }).boundingBox()
    await page.getByText('No run since the server started').waitFor()
    await page.getByRole('row', { name: /^files .* 1,200 .* 5,000 events/ }).waitFor()
    await page.getByRole('button', { name: 'Channel' }).click()
    await vi.waitFor(
      async () => expect([await names(), await sorted('Channel')]).toEqual([['a', 'b', 'files'], 'ascending']),
      PATIENCE,
    )
    await page.getByRole('button', { name: 'Channel' }).click()
    await vi.waitFor(
      async () => expect([await names(), await sorted('Channel')]).toEqual([['files', 'b', 'a'], 'descending']),
      PATIENCE,
    )
    await page.keyboard.press('/')
    await page.keyboard.type('FIL')
    await vi.waitFor(async () => expect(await names()).toEqual(['files']), PATIENCE)
    expect(page.url()).toContain('holds=FIL')
    const still = await box('Space')

    await page.getByRole('link', { name: 'files' }).click()
    await page.getByText('Kept: 5,000 events (configured, pattern files).').waitFor()
    await page.getByText(/^on disk, .*, as said by the channel’s settings$/).waitFor()
    await page.getByLabel('Limits of its own').check()
    await page.getByText('Without any limit everything is kept.').waitFor()
    const apply = page.getByRole('button', { name: 'Apply' })
    expect(await apply.isDisabled()).toBe(true)
    await page.getByLabel('Events at most').fill('0')
    await page.getByText(/maxEvents: .*\(bad-request\)/).waitFor()
    await page.getByLabel('Events at most').fill('1150')
    await page.getByText('Now 50 of 1,200 events would go (4 %): seqs 1 … 50.').waitFor()
    const dialog = page.getByRole('dialog')
    await apply.click()
    await dialog.getByRole('button', { name: 'Cancel' }).click()
    await dialog.waitFor({ state: 'detached' })
    expect((await log.info('files')).settings).toEqual({ note: 'stays', state: true })
    await apply.click()
    await dialog.getByText(/Now 50 of 1,200 events would go/).waitFor()
    await dialog.getByRole('button', { name: 'Apply' }).click()
    await page.getByText(/^50 events, /).waitFor()
    await page.getByText('the channel’s settings', { exact: true }).waitFor()
    expect(await log.info('files')).toMatchObject({
      trimmed: 50,
      settings: { note: 'stays', state: true, retention: { maxEvents: 1_150 } },
    })

    await page.getByRole('button', { name: 'Look what it frees' }).click()
    await page.getByText(/^would free 150 of 1,150 events/).waitFor()
    // Other options are another plan.
    await page.getByLabel('The newest stay untouched').fill('900')
    expect(await page.getByRole('button', { name: 'Compact …' }).isDisabled()).toBe(true)
    await page.getByLabel('The newest stay untouched').fill('1000')
    await page.getByRole('button', { name: 'Look what it frees' }).click()
    await page.getByRole('button', { name: 'Compact …' }).click()
    await dialog.getByText(/150 of 1,150 events/).waitFor()
    const resting = await page.getByRole('button', { name: 'Look what it frees' }).boundingBox()
    await dialog.getByRole('button', { name: 'Compact', exact: true }).click()
    const bar = page.getByRole('progressbar', { name: /^Compaction of files: / })
    await bar.waitFor()
    expect(await page.getByRole('button', { name: 'Look what it frees' }).boundingBox()).toEqual(resting)
    await goTo('#/keeping/a')
    await page.getByRole('button', { name: 'Look what it frees' }).click()
    await page.getByText('files is being compacted (busy)').waitFor()
    await goTo('#/keeping')
    await bar.waitFor()
    expect(await box('Space')).toEqual(still)
    go()
    await page.getByText(/^freed 150 of 1,150 events/).waitFor()
    expect(await box('Space')).toEqual(still)
    await page.getByRole('button', { name: 'Verify the log' }).click()
    await page.getByText(/^whole: [34] channels/).waitFor()
    expect((await log.read('files', { after: 50 }, { events: 1, bytes: 1 })).last).toBe(200)
    await goTo('#/keeping/_streamer')
    await page
      .getByText('The server keeps its own channels itself')
      .or(page.getByText('(no-channel)'))
      .first()
      .waitFor()
    expect(wrong.filter((text) => !/status of (400|404|409)/.test(text))).toEqual([])
  })

  test('a tail shows what comes, over either door; it pauses, filters, and begins at a seq', async () => {
    const { url, log } = await served()
    const append = (...values: unknown[]) => log.append([{ channel: 'live', body: body(...values) }])
    await append(...range(1, 300))
    await log.trim('live', 50)
    const { page, wrong } = await openConsole(browser, url, '#/channels/live')
    const grid = page.getByRole('grid')
    const cell = (text: string) => grid.getByRole('gridcell', { name: text, exact: true }).first()
    await cell('300').waitFor()
    await append({ is: 'new' })
    await cell('{"is":"new"}').waitFor()

    await page.getByRole('button', { name: 'Pause' }).click()
    await append('while paused')
    await page.getByText('paused', { exact: true }).waitFor()
    // The batch that was on its way when it was pressed may still come.
    await append('later')
    await page.waitForTimeout(300)
    expect(await grid.getByText('later').count()).toBe(0)
    await page.getByRole('button', { name: 'Go on' }).click()
    await cell('"while paused"').waitFor()
    await cell('"later"').waitFor()

    await page.getByLabel('Show events whose').fill('PAUSED')
    await vi.waitFor(async () => expect(await grid.getByRole('row').count()).toBe(2), PATIENCE)
    await page.getByLabel('Show events whose').fill('')

    await page.getByLabel('From').selectOption('seq')
    await page.getByLabel('Seq to begin with').fill('7')
    await page.getByRole('button', { name: 'Go', exact: true }).click()
    await vi.waitFor(async () => {
      await grid.focus()
      await page.keyboard.press('Home')
      await grid.getByText('Events 7–50 are gone: trimmed').waitFor({ timeout: 500 })
    }, PATIENCE)
    await cell('51').waitFor()

    await page.getByRole('link', { name: 'Overview' }).click()
    await page.getByRole('switch').click()
    await page.locator('header').getByText('streamer off').waitFor()
    await page.getByRole('switch', { name: 'Off' }).waitFor()
    expect((await (await fetch(`${url}/v1/admin/streamer`)).json()).on).toBe(false)
    await page.goBack()
    await page.getByText('live by long polls').waitFor(PATIENCE)
    await append('by poll')
    await cell('"by poll"').waitFor()
    await fetch(`${url}/v1/admin/streamer`, {
      method: 'PUT',
      body: '{"on":true}',
      headers: { 'content-type': 'application/json' },
    })
    await page.locator('header').getByText('streamer on').waitFor()
    expect(wrong.filter((line) => !/WebSocket connection .* failed/.test(line))).toEqual([])
  })

  test('a cursor is moved or deleted only after a question', async () => {
    const { url, log } = await served()
    await log.append([{ channel: 'a', body: body(...range(1, 9)) }])
    for (const client of ['x', 'y']) await log.commit(client, 'a', { seq: 3 })
    const { page, wrong } = await openConsole(browser, url, '#/cursors')
    const row = (client: string) => page.getByRole('row', { name: new RegExp(`^${client} a`) })
    const dialog = page.getByRole('dialog')

    await row('x').getByRole('button', { name: 'Seek' }).click()
    await dialog.getByRole('button', { name: 'Cancel' }).click()
    await dialog.waitFor({ state: 'detached' })
    await row('x').getByRole('button', { name: 'Seek' }).click()
    await dialog.waitFor()
    await page.keyboard.press('Escape')
    await dialog.waitFor({ state: 'detached' })
    expect((await log.cursor('x', 'a'))!.seq).toBe(3)
    await row('x').getByRole('button', { name: 'Seek' }).click()
    await dialog.getByLabel('The last seq').fill('1')
    await dialog.getByRole('button', { name: 'Move' }).click()
    await page.getByRole('row', { name: /^x a 8 1/ }).waitFor()
    expect((await log.cursor('x', 'a'))!.seq).toBe(1)

    await row('y').getByRole('button', { name: 'Delete' }).click()
    await dialog.getByText('Delete the cursor of y').waitFor()
    expect(await log.cursor('y', 'a')).toBeDefined()
    await dialog.getByRole('button', { name: 'Delete' }).click()
    await row('y').waitFor({ state: 'detached' })
    expect(await log.cursor('y', 'a')).toBeUndefined()
    expect(wrong).toEqual([])
  })

  test('a server with keys is watched by who shows the key of an admin, as long as that is good', async () => {
    const guarded = await startGuarded()
    const { credentials, kids, log } = guarded
    await log.append([{ channel: 'orders/eu', body: body({ total: 7 }) }])
    const { page, wrong, go } = await openConsole(browser, guarded.url)
    const field = page.getByLabel('Admin key')
    const shows = async (key: string) => {
      await field.fill(key)
      await page.getByRole('button', { name: 'Sign in' }).click()
    }
    await shows(credentials.publish)
    await page.getByText('This is not the key of an admin').waitFor()
    await shows(`${credentials.admin}x`)
    await page.getByText('This key is not good').waitFor()
    await shows(credentials.admin)
    await page.getByText('answers after fsync').waitFor()
    await go('#/keeping')
    await page.getByRole('link', { name: 'orders/eu' }).click()
    await page.getByText('Nothing would go now.').waitFor()
    await go('#/channels/orders%2Feu')
    await page.getByText('live over a WebSocket').waitFor()
    // In this tab alone.
    expect(await page.evaluate(() => JSON.stringify([localStorage, document.cookie, location.href]))).not.toContain(
      'tm_',
    )

    await page.getByRole('button', { name: 'Sign out' }).click()
    await field.waitFor()
    expect(await page.evaluate(() => JSON.stringify(sessionStorage))).toBe('{}')
    await shows(credentials.admin)
    await page.getByText('live over a WebSocket').waitFor()
    guarded.change((keys) => ({ ...keys, keys: keys.keys.filter(({ kid }) => kid !== kids.admin) }))
    await field.waitFor()
    expect(wrong.filter((text) => !/status of 40[13]/.test(text))).toEqual([])
  })

  test('ten thousand channels are searched, scrolled and opened by the keyboard', async () => {
    const { url, log } = await served()
    const name = (n: number) => `shop-${String(n).padStart(5, '0')}`
    for (let from = 0; from < 10_000; from += 1_000)
      await log.append(range(from, from + 999).map((n) => ({ channel: name(n), body: body(n) })))
    const { page, wrong, go } = await openConsole(browser, url, '#/channels', 390)
    await page.getByRole('status').getByText('10,000', { exact: true }).waitFor()
    const cell = (n: number) => page.getByRole('link', { name: name(n) })
    await cell(0).waitFor()
    expect(await page.getByRole('row').count()).toBeLessThan(80)

    await page.keyboard.press('/')
    const started = performance.now()
    await page.keyboard.type('shop-0777')
    await cell(7_770).waitFor()
    await vi.waitFor(async () => expect(await page.getByRole('row').count()).toBe(11), PATIENCE)
    const searched = performance.now() - started
    await page.getByRole('searchbox').fill('')
    await page.getByRole('status').getByText('10,000', { exact: true }).waitFor()

    await page.keyboard.press('Tab')
    const ended = performance.now()
    await page.keyboard.press('End')
    await cell(9_999).waitFor()
    const scrolled = performance.now() - ended
    await page.keyboard.press('PageUp')
    await page.keyboard.press('Home')
    await page.keyboard.press('ArrowDown')
    await page.keyboard.press('ArrowDown')
    await vi.waitFor(
      async () => expect(await page.locator('.row[aria-selected="true"]').textContent()).toContain(name(2)),
      PATIENCE,
    )
    await page.keyboard.press('Enter')
    await page.getByRole('heading', { name: name(2) }).waitFor()
    console.log(`10,000 channels: searched in ${searched.toFixed(0)} ms, the end reached in ${scrolled.toFixed(0)} ms`)
    // Nothing is wider than a narrow screen.
    const isNarrow = async () =>
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(390)
    await isNarrow()

    await go('#/keeping?by=channel&skip=9900')
    await page.getByRole('link', { name: name(9_999) }).waitFor()
    await page.getByText('9,901–10,000 of 10,000').waitFor()
    expect(await page.getByRole('button', { name: 'Next' }).isDisabled()).toBe(true)
    await page.getByRole('button', { name: 'Previous' }).click()
    await page.getByText('9,801–9,900 of 10,000').waitFor()
    await isNarrow()
    await page.getByRole('searchbox').fill('OP-0777')
    await page.getByRole('status').getByText('10 of 10,000 channels, 10 events').waitFor()
    await go(`#/keeping/${name(1)}`)
    await page.getByText('Nothing would go now.').waitFor()
    await isNarrow()
    expect(wrong).toEqual([])
  })

  test('the end of a list is reached however its pages come, and what comes beside them moves nobody', async () => {
    const { url, log } = await served()
    const name = (n: number) => `shop-${String(n).padStart(5, '0')}`
    for (let from = 0; from < 4_000; from += 1_000)
      await log.append(range(from, from + 999).map((n) => ({ channel: name(n), body: body(n) })))
    const { page, wrong } = await openConsole(browser, url, '#/channels')
    const selected = page.locator('.row[aria-selected="true"]')
    const isAt = (n: number) =>
      vi.waitFor(async () => {
        expect(await page.getByRole('status').textContent()).toBe('4,000')
        expect(await selected.textContent()).toContain(name(n))
        expect(await selected.isVisible()).toBe(true)
      }, PATIENCE)
    await page.getByRole('status').getByText('4,000', { exact: true }).waitFor()
    const upTo = dice(SEED)
    console.log(`console: TEST_SEED=${SEED}`)
    await page.route('**/v1/channels?*', async (route) => {
      await new Promise((resolve) => setTimeout(resolve, upTo(400)))
      await route.continue()
    })
    for (let round = 0; round < 3; round++) {
      await page.getByRole('searchbox').fill('shop-0177')
      await page.getByRole('status').getByText('10', { exact: true }).waitFor()
      await page.getByRole('searchbox').fill('')
      await page.waitForTimeout(upTo(1_500))
      await page.getByRole('grid').focus()
      await page.keyboard.press('End')
      await isAt(3_999)
      await page.keyboard.press('ArrowUp')
      await isAt(3_998)
    }
    // A channel that comes before what is seen moves nothing under the person's hand.
    await log.append([{ channel: 'shop-03990-new', body: body(1) }])
    await page.getByRole('link', { name: 'shop-03990-new' }).waitFor()
    expect(await selected.textContent()).toContain(name(3_998))
    expect(wrong).toEqual([])
  })
})
