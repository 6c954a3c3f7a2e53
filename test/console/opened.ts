/** The console in a real browser over a real server; whatever a page must never do is collected on the way. */
import type { Browser, Page } from 'playwright-core'
import { onTestFinished } from 'vitest'

export interface Opened {
  readonly page: Page
  /** Scripts and policies that failed, and requests that left the server. */
  readonly wrong: string[]
  /** Goes to another page of the console. */
  go(hash: string): Promise<void>
}

/** @param url of the server */
export async function openConsole(browser: Browser, url: string, hash = '#/', width = 1400): Promise<Opened> {
  const context = await browser.newContext({ viewport: { width, height: 900 } })
  onTestFinished(() => context.close())
  // Below the test's own time, so that what was waited for is told.
  context.setDefaultTimeout(10_000)
  const page = await context.newPage()
  const wrong: string[] = []
  page.on('pageerror', (error) => wrong.push(String(error)))
  // A policy that was broken is told there, too.
  page.on('console', (message) => {
    if (message.type() === 'error') wrong.push(message.text())
  })
  page.on('request', (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith('data:')) wrong.push(`left: ${request.url()}`)
  })
  await page.goto(`${url}/console/${hash}`)
  await page.getByRole('navigation').or(page.getByLabel('Admin key')).waitFor()
  const go = async (to: string): Promise<void> => {
    await page.evaluate((next) => {
      location.hash = next
    }, to)
  }
  return { page, wrong, go }
}
