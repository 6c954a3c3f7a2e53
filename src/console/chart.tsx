/** A chart of the last minutes: lines over time, their values beside their names. */
import { useSignal } from '@preact/signals'
import { useEffect, useLayoutEffect, useRef } from 'preact/hooks'
import uPlot from 'uplot'

export interface Line {
  readonly name: string
  /** A custom property of console.css: `--line-1`. */
  readonly color: string
  readonly values: readonly (number | null)[]
  /** Where the name leads. */
  readonly href?: string
}

export interface ChartProps {
  readonly title: string
  readonly about: string
  /** Seconds since 1970, rising. */
  readonly times: readonly number[]
  readonly lines: readonly Line[]
  readonly text: (value: number) => string
  /** What the scale reaches at least. */
  readonly reach?: number
  /** The smallest step of the scale that `text` can tell apart. */
  readonly step: number
}

const HEIGHT = 150
/** Steps of the time, seconds. */
const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900]
/** What a chart of less than two moments reaches back, seconds. */
const FIRST_S = 60
/** All charts show the moment that the pointer is at in one of them. */
const SYNC = uPlot.sync('moments')
const dark = matchMedia('(prefers-color-scheme: dark)')

export function Chart({ title, about, times, lines, text, reach = 0, step }: ChartProps) {
  const place = useRef<HTMLDivElement>(null)
  const plot = useRef<uPlot>(undefined)
  const hovered = useSignal<number | null>(null)
  const data = [times, ...lines.map(({ values }) => values)] as unknown as uPlot.AlignedData
  const shape = lines.map(({ name, color }) => `${color} ${name}`).join('\n')

  useLayoutEffect(() => {
    const make = () => {
      plot.current?.destroy()
      plot.current = draw(place.current!, data, { lines, text, reach, step }, (at) => {
        hovered.value = at
      })
    }
    make()
    const resized = new ResizeObserver(([entry]) => {
      plot.current!.setSize({ width: Math.max(entry!.contentRect.width, 60), height: HEIGHT })
    })
    resized.observe(place.current!)
    dark.addEventListener('change', make)
    return () => {
      dark.removeEventListener('change', make)
      resized.disconnect()
      plot.current!.destroy()
      plot.current = undefined
    }
  }, [shape])

  useEffect(() => plot.current?.setData(data), [times, lines])

  const valueAt = ({ values }: Line) => {
    const value = hovered.value === null ? lastOf(values) : values[hovered.value]
    return value === null || value === undefined ? '–' : text(value)
  }
  return (
    <section class="card chart">
      <h2>
        {title} <small>{about}</small>
      </h2>
      <ul class="legend">
        {lines.map((line) => (
          <li key={line.name} class={line.color.slice(2)}>
            {line.href === undefined ? <span>{line.name}</span> : <a href={line.href}>{line.name}</a>}
            <b>{valueAt(line)}</b>
          </li>
        ))}
        {lines.length === 0 && <li class="none">nothing moves</li>}
      </ul>
      <div ref={place} class="plot" role="img" aria-label={`${title}, ${about}, over the last minutes`} />
    </section>
  )
}

function draw(
  place: HTMLElement,
  data: uPlot.AlignedData,
  { lines, text, reach, step }: Required<Pick<ChartProps, 'lines' | 'text' | 'reach' | 'step'>>,
  onMoment: (index: number | null) => void,
): uPlot {
  const style = getComputedStyle(document.documentElement)
  const color = (name: string) => style.getPropertyValue(name).trim()
  const axis = {
    stroke: color('--quiet'),
    font: `11px ${style.getPropertyValue('--sans')}`,
    grid: { stroke: color('--hair'), width: 1 },
    ticks: { show: false },
  }
  return new uPlot(
    {
      width: Math.max(place.clientWidth, 60),
      height: HEIGHT,
      // The last moment's text is centred at the edge.
      padding: [8, 26, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { setScale: false }, points: { size: 6 }, sync: { key: SYNC.key } },
      scales: {
        x: {
          range: ({ data: [times] }, from, to) => {
            const [only = Date.now() / 1_000] = times
            return times.length > 1 ? [from, to] : [only - FIRST_S, only]
          },
        },
        y: { range: (_, __, most) => [0, Math.max(most * 1.1, reach) || 1] },
      },
      axes: [
        { ...axis, space: 70, size: 24, incrs: TIME_STEPS, values: (_, times) => times.map(minutes) },
        { ...axis, space: 26, size: 54, incrs: stepsFrom(step), values: (_, values) => values.map(text) },
      ],
      series: [
        {},
        ...lines.map(({ name, color: line }) => ({
          label: name,
          stroke: color(line),
          width: 1.5,
          points: { show: false },
          spanGaps: false,
        })),
      ],
      hooks: { setCursor: [({ cursor }) => onMoment(cursor.idx ?? null)] },
    },
    data,
    place,
  )
}

/** 1, 2, 5, 10 … times the smallest one. */
const stepsFrom = (least: number): number[] =>
  Array.from({ length: 13 }, (_, power) => [1, 2, 5].map((n) => n * least * 10 ** power)).flat()

const minutes = (time: number): string =>
  new Date(time * 1_000).toLocaleTimeString('en-GB', { hour12: false, timeStyle: 'medium' })

const lastOf = (values: readonly (number | null)[]): number | null => {
  for (let i = values.length - 1; i >= 0; i--) if (values[i] !== null) return values[i]!
  return null
}
