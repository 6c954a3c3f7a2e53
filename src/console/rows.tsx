/**
 * A list of any length of which only what is seen is in the page. One stop of the Tab key; arrows, Page, Home and End
 * move within it, Enter opens.
 */
// A table that scrolls through any number of rows can not be one of HTML; the focus stays on the grid, which says where it is.
// biome-ignore-all lint/a11y/useSemanticElements: as said above
// biome-ignore-all lint/a11y/useFocusableInteractive: as said above
// biome-ignore-all lint/a11y/useKeyWithClickEvents: the keys are heard by the grid
import { signal as makeSignal, type Signal } from '@preact/signals'
import type { ComponentChildren } from 'preact'
import { useLayoutEffect, useMemo, useRef } from 'preact/hooks'

/** As in console.css. */
export const ROW_PX = 28
/** Rows beyond the edges that are there before they are scrolled to. */
const BEYOND = 8

export interface Column {
  readonly name: string
  /** Numbers stand at the right. */
  readonly is?: 'number'
  /** Left out on narrow screens. */
  readonly wide?: true
}

export interface RowsProps {
  readonly label: string
  /** Names the columns' widths in console.css. */
  readonly kind: string
  readonly columns: readonly Column[]
  readonly count: number
  /** The cells of a row, as many as columns; or one text over all of them. */
  readonly cells: (index: number) => readonly ComponentChildren[] | string
  /** The row that the keyboard is at, -1 for none. */
  readonly at: Signal<number>
  readonly onOpen: (index: number) => void
  /** What is seen changed. */
  readonly onSeen?: (first: number, last: number) => void
  /** Rows that went away above what is seen, less those that came: what is seen stays where it is. */
  readonly dropped?: number
  /** Set by `End` until something else is pressed or scrolled to: rows that come move it on. */
  readonly toEnd?: Signal<boolean>
  /** True keeps the end in sight; scrolling up ends that, scrolling to the end begins it again. */
  readonly atEnd?: Signal<boolean>
  readonly empty: string
}

export function Rows(props: RowsProps) {
  const { label, kind, columns, count, cells, at, onOpen, onSeen, dropped = 0, atEnd, toEnd, empty } = props
  const box = useRef<HTMLDivElement>(null)
  const before = useRef({ dropped, top: 0 })
  const seen = useMemo(() => makeSignal({ top: 0, height: 600 }), [])

  const measure = () => {
    const { scrollTop: top, clientHeight: height, scrollHeight } = box.current!
    if (top !== seen.value.top || height !== seen.value.height) seen.value = { top, height }
    // The end comes and goes with new rows: only a person's own scrolling leaves it and finds it again.
    if (atEnd && top < before.current.top) atEnd.value = false
    else if (atEnd && top > before.current.top && top + height >= scrollHeight - ROW_PX) atEnd.value = true
    if (toEnd && top < before.current.top) toEnd.value = false
    before.current.top = top
  }

  useLayoutEffect(() => {
    // What was in sight stays in sight: the end, or where the keyboard is.
    const resized = new ResizeObserver(() => {
      const { top, height } = seen.value
      const y = at.value * ROW_PX
      if (atEnd?.value) box.current!.scrollTop = box.current!.scrollHeight
      else if (y >= top && y + 2 * ROW_PX <= top + height) reveal(at.value)
      before.current.top = box.current!.scrollTop
      measure()
    })
    resized.observe(box.current!)
    return () => resized.disconnect()
  }, [])

  useLayoutEffect(() => {
    const gone = dropped - before.current.dropped
    before.current.dropped = dropped
    const element = box.current!
    if (atEnd?.value) element.scrollTop = element.scrollHeight
    else if (toEnd?.value) move(count - 1)
    else if (gone !== 0) element.scrollTop -= gone * ROW_PX
    else return
    before.current.top = element.scrollTop
  }, [count, dropped, atEnd?.value])

  // Coming back, the place is in sight.
  useLayoutEffect(() => {
    if (at.value >= 0) reveal(at.value)
  }, [])

  const first = Math.max(0, Math.floor(seen.value.top / ROW_PX) - BEYOND)
  const last = Math.min(count, Math.ceil((seen.value.top + seen.value.height) / ROW_PX) + BEYOND)
  useLayoutEffect(() => onSeen?.(first, last), [first, last, count])

  const move = (to: number) => {
    at.value = Math.min(count - 1, Math.max(0, to))
    reveal(at.value)
  }
  const reveal = (index: number) => {
    const element = box.current!
    const { scrollTop: top, clientHeight: height } = element
    if (index * ROW_PX < top) {
      element.scrollTop = index * ROW_PX
      if (atEnd) atEnd.value = false
    } else if ((index + 2) * ROW_PX > top + height) element.scrollTop = (index + 2) * ROW_PX - height
  }
  const onKeyDown = (event: KeyboardEvent) => {
    const page = Math.max(1, Math.floor(seen.value.height / ROW_PX) - 2)
    const now = at.value
    const places: Readonly<Record<string, number>> = {
      ...{ ArrowDown: now + 1, ArrowUp: now - 1, PageDown: now + page, PageUp: now - page },
      ...{ Home: 0, End: count - 1 },
    }
    if (event.altKey || event.ctrlKey || event.metaKey) return
    if (event.key in places) {
      if (toEnd) toEnd.value = event.key === 'End'
      if (atEnd && event.key === 'End') atEnd.value = true
      move(places[event.key]!)
    } else if (event.key === 'Enter' && now >= 0 && now < count) onOpen(now)
    else return
    event.preventDefault()
  }

  const rows = []
  for (let i = first; i < last; i++) {
    const made = cells(i)
    rows.push(
      <div
        key={i + dropped}
        id={`${kind}-${i}`}
        role="row"
        aria-rowindex={i + 2}
        aria-selected={at.value === i}
        class={typeof made === 'string' ? 'row notice' : 'row'}
        style={{ transform: `translateY(${i * ROW_PX}px)` }}
        onClick={() => {
          at.value = i
          if (toEnd) toEnd.value = false
          onOpen(i)
        }}
      >
        {typeof made === 'string' ? (
          <div role="gridcell" aria-colspan={columns.length}>
            {made}
          </div>
        ) : (
          made.map((cell, c) => (
            <div key={columns[c]!.name} role="gridcell" class={classOf(columns[c]!)}>
              {cell}
            </div>
          ))
        )}
      </div>,
    )
  }
  return (
    <div
      ref={box}
      class={`rows ${kind}`}
      role="grid"
      tabIndex={0}
      aria-label={label}
      aria-rowcount={count + 1}
      aria-activedescendant={at.value >= first && at.value < last ? `${kind}-${at.value}` : undefined}
      onScroll={measure}
      onKeyDown={onKeyDown}
    >
      <div role="row" aria-rowindex={1} class="row names">
        {columns.map((column) => (
          <div key={column.name} role="columnheader" class={classOf(column)}>
            {column.name}
          </div>
        ))}
      </div>
      <div role="rowgroup" class="all" style={{ height: `${count * ROW_PX}px` }}>
        {rows}
      </div>
      {count === 0 && <p class="none">{empty}</p>}
    </div>
  )
}

const classOf = ({ is, wide }: Column): string | undefined =>
  [is, wide && 'wide'].filter(Boolean).join(' ') || undefined
