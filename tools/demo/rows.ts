/**
 * The rows on the screen: only those that can be seen are in the document, so a folder of a hundred thousand names
 * costs what a screenful does. Rows keep their element while they live, so what moves is seen to move. Keys as in
 * every tree (WAI-ARIA): the focus stays on the tree, which names its active row.
 */
import type { Node } from '../watch/tree.ts'
import { parentOf } from '../watch/tree.ts'
import type { Changes, Folder, Row } from './folder.ts'

const ROW_PX = 28
/** Rows beyond either edge that are drawn too. */
const BEYOND = 10
const FLASH_MS = 1_600
const LEAVE_MS = 250
/** Letters typed within this time are one word to go to, ms. */
const TYPING_MS = 700

type Flash = 'added' | 'changed' | 'moved'

export class Rows {
  readonly #tree: HTMLElement
  readonly #sheet: HTMLElement
  readonly #folder: Folder
  /** Elements by path. */
  readonly #shown = new Map<string, HTMLElement>()
  #active = ''
  /** Where the active row was drawn last: what is there when it vanishes is next. */
  #activeAt = 0
  #typed = ''
  #typedAt = 0
  #made = 0

  /** @param onWish the reader wants to see something else: draw again. */
  constructor(tree: HTMLElement, folder: Folder, onWish: () => void) {
    this.#tree = tree
    this.#sheet = tree.firstElementChild as HTMLElement
    this.#folder = folder
    tree.style.setProperty('--row', `${ROW_PX}px`)
    tree.addEventListener('scroll', onWish, { passive: true })
    new ResizeObserver(onWish).observe(tree)
    tree.addEventListener('keydown', (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !this.#key(event.key)) return
      event.preventDefault()
      onWish()
    })
    tree.addEventListener('click', ({ target }) => {
      const path = (target as HTMLElement).closest<HTMLElement>('[role=treeitem]')?.dataset.path
      if (path === undefined) return
      this.#active = path
      folder.toggle(path)
      onWish()
    })
  }

  /** Brings a path into sight, and makes it the active one. */
  show(path: string): void {
    this.#folder.reveal(path)
    this.#active = this.#folder.rowOf(path)
    this.#scrollToActive()
  }

  draw({ added, changed, removed, moved }: Changes): void {
    const { rows } = this.#folder
    for (const [to, from] of moved) this.#rename(from, to)
    this.#sheet.style.height = `${rows.length * ROW_PX}px`
    this.#settleActive(rows)
    const { scrollTop, clientHeight } = this.#tree
    const first = Math.max(0, Math.floor(scrollTop / ROW_PX) - BEYOND)
    const last = Math.min(rows.length, Math.ceil((scrollTop + clientHeight) / ROW_PX) + BEYOND)
    const stays = new Set<string>()
    let above: HTMLElement | undefined
    for (let i = first; i < last; i++) {
      stays.add(rows[i]!.path)
      above = this.#place(rows[i]!, i, above)
    }
    for (const [path, element] of this.#shown) {
      if (stays.has(path)) continue
      this.#shown.delete(path)
      if (removed.has(path)) leave(element)
      else element.remove()
    }
    for (const path of changed) this.#flash(path, 'changed')
    for (const path of removed.keys()) if (parentOf(path) !== '') this.#flash(parentOf(path), 'changed')
    for (const path of added.keys()) this.#flash(path, moved.has(path) ? 'moved' : 'added')
  }

  #rename(from: string, to: string): void {
    if (this.#active === from) this.#active = to
    const element = this.#shown.get(from)
    if (element === undefined || this.#shown.has(to)) return
    this.#shown.delete(from)
    this.#shown.set(to, element)
  }

  #settleActive(rows: readonly Row[]): void {
    const at = rows.findIndex(({ path }) => path === this.#active)
    if (at >= 0) this.#activeAt = at
    else this.#active = rows[Math.min(this.#activeAt, rows.length - 1)]?.path ?? ''
  }

  #place(row: Row, at: number, above: HTMLElement | undefined): HTMLElement {
    const { path } = row
    let element = this.#shown.get(path)
    if (element === undefined) {
      element = this.#make()
      this.#shown.set(path, element)
      if (above) above.after(element)
      else this.#sheet.prepend(element)
    }
    write(element, row, this.#folder.tree.get(path), row.isDir ? this.#folder.count(path) : 0)
    element.style.transform = `translateY(${at * ROW_PX}px)`
    const isActive = path === this.#active
    element.setAttribute('aria-selected', String(isActive))
    if (isActive) this.#tree.setAttribute('aria-activedescendant', element.id)
    return element
  }

  #make(): HTMLElement {
    const element = document.createElement('div')
    element.id = `row-${this.#made++}`
    element.setAttribute('role', 'treeitem')
    for (const part of ['mark', 'name', 'size', 'time']) {
      const cell = document.createElement('span')
      cell.className = part
      element.append(cell)
    }
    return element
  }

  /** A change inside a closed directory is seen on that directory. */
  #flash(path: string, how: Flash): void {
    const shown = this.#folder.rowOf(path)
    const element = this.#shown.get(shown)
    const colour = `var(--${shown === path ? how : 'changed'})`
    element?.animate({ backgroundColor: [colour, colour, 'transparent'] }, { duration: FLASH_MS, easing: 'ease-in' })
  }

  // ── Keys ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /** False for a key that means nothing here. */
  #key(key: string): boolean {
    const folder = this.#folder
    const { rows } = folder
    const at = this.#activeAt
    const row = rows[at]
    if (row === undefined) return false
    const page = Math.max(1, Math.floor(this.#tree.clientHeight / ROW_PX) - 1)
    switch (key) {
      case 'ArrowDown':
        return this.#go(at + 1)
      case 'ArrowUp':
        return this.#go(at - 1)
      case 'PageDown':
        return this.#go(at + page)
      case 'PageUp':
        return this.#go(at - page)
      case 'Home':
        return this.#go(0)
      case 'End':
        return this.#go(rows.length - 1)
      case 'ArrowRight':
        if (row.isOpen) return this.#go(at + (rows[at + 1]?.level === row.level + 1 ? 1 : 0))
        folder.toggle(row.path, true)
        return true
      case 'ArrowLeft':
        if (row.isOpen) folder.toggle(row.path, false)
        else if (row.level > 1) this.#go(rows.findLastIndex(({ level }, i) => i < at && level < row.level))
        return true
      case 'Enter':
      case ' ':
        folder.toggle(row.path)
        return true
      case '*':
        folder.openBeside(row.path)
        return true
      default:
        return key.length === 1 && this.#type(key)
    }
  }

  #go(at: number): true {
    const { rows } = this.#folder
    const row = rows[Math.min(Math.max(at, 0), rows.length - 1)]
    if (row) this.#active = row.path
    this.#scrollToActive()
    return true
  }

  #type(letter: string): true {
    const now = performance.now()
    this.#typed = now - this.#typedAt < TYPING_MS ? this.#typed + letter : letter
    this.#typedAt = now
    const { rows } = this.#folder
    const word = this.#typed.toLowerCase()
    // A further letter may keep the row; a first one goes on to the next.
    const from = this.#activeAt + (word.length > 1 ? 0 : 1)
    for (let i = 0; i < rows.length; i++) {
      const at = (from + i) % rows.length
      if (rows[at]!.name.toLowerCase().startsWith(word)) return this.#go(at)
    }
    return true
  }

  #scrollToActive(): void {
    const at = this.#folder.rows.findIndex(({ path }) => path === this.#active)
    if (at < 0) return
    this.#activeAt = at
    const tree = this.#tree
    this.#sheet.style.height = `${this.#folder.rows.length * ROW_PX}px`
    if (at * ROW_PX < tree.scrollTop) tree.scrollTop = at * ROW_PX
    else if ((at + 1) * ROW_PX > tree.scrollTop + tree.clientHeight)
      tree.scrollTop = (at + 1) * ROW_PX - tree.clientHeight
  }
}

function leave(element: HTMLElement): void {
  element.setAttribute('aria-hidden', 'true')
  const fading = element.animate({ opacity: [1, 0], backgroundColor: ['var(--removed)', 'transparent'] }, LEAVE_MS)
  fading.onfinish = () => element.remove()
}

function write(element: HTMLElement, row: Row, node: Node | undefined, count: number): void {
  const { path, name, level, isDir, isOpen, place, beside } = row
  const [, nameCell, sizeCell, timeCell] = element.children as unknown as HTMLElement[]
  element.dataset.path = path
  element.dataset.kind = isDir ? 'dir' : (node?.kind ?? 'other')
  element.style.setProperty('--level', String(level - 1))
  for (const [about, value] of [
    ['aria-level', level],
    ['aria-posinset', place],
    ['aria-setsize', beside],
    ['aria-expanded', isDir ? isOpen : undefined],
  ] as const)
    if (value === undefined) element.removeAttribute(about)
    else element.setAttribute(about, String(value))
  tell(nameCell!, name)
  tell(sizeCell!, isDir ? `${count}` : sizeOf(node?.size))
  tell(timeCell!, timeOf(node?.mtime))
}

function tell(cell: HTMLElement, text: string): void {
  if (cell.textContent !== text) cell.textContent = text
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB']

function sizeOf(bytes: number | undefined): string {
  if (bytes === undefined) return ''
  let [size, unit] = [bytes, 0]
  for (; size >= 1024 && unit < UNITS.length - 1; unit++) size /= 1024
  return `${size < 10 && unit > 0 ? size.toFixed(1) : Math.round(size)} ${UNITS[unit]}`
}

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit' })
const day = new Intl.DateTimeFormat(undefined, { year: 'numeric', month: 'short', day: 'numeric' })

/** Today by the clock, before that by the day. */
function timeOf(mtime: number | undefined): string {
  if (mtime === undefined) return ''
  const time = new Date(mtime)
  return (time.toDateString() === new Date().toDateString() ? clock : day).format(time)
}
