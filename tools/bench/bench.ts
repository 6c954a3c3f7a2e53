#!/usr/bin/env node
/**
 * `npm run bench -- [W1..W9 | curves]`: how fast Tidemark is on this machine, and beside each figure what the machine itself
 * could do, measured in the same run; with --peers, what other servers do. Tables on stdout, progress on stderr. Exit 1 when a count is wrong.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import * as append from './append.ts'
import * as catchup from './catchup.ts'
import { killAll, stopAll } from './child.ts'
import * as curves from './curves.ts'
import { compressedShare } from './events.ts'
import * as fanout from './fanout.ts'
import { type Measure, type Row, rowsOf, short, tableOf, wrongCounts } from './figures.ts'
import * as idle from './idle.ts'
import * as jetstream from './jetstream.ts'
import { Lab } from './lab.ts'
import * as latency from './latency.ts'
import * as longpoll from './longpoll.ts'
import { cpuTicks, describeMachine, type Machine, stolenShare } from './machine.ts'
import * as mixed from './mixed.ts'
import type { Peer } from './peer.ts'
import { PEER_NAMES, peerNames, preparePeers } from './peers.ts'
import { type Language, type Programs, preparePrograms } from './programs.ts'
import * as restart from './restart.ts'
import { FULL, QUICK } from './scale.ts'

interface Workload {
  title(lab: Lab): string
  /** One run. */
  run(lab: Lab): AsyncIterable<Measure>
}

const WORKLOADS: Readonly<Record<string, Workload>> = {
  W1: append,
  W2: fanout,
  W3: latency,
  W4: catchup,
  W5: idle,
  W6: restart,
  W7: longpoll,
  W8: mixed,
  W9: jetstream,
  CURVES: curves,
}

/** What is measured unless something is named. */
const USUAL = Object.keys(WORKLOADS).filter((name) => name !== 'CURVES')

interface Options {
  readonly runs?: number
  readonly json?: string
  readonly quick: boolean
  readonly profile: boolean
  readonly rows?: string
  readonly peers?: readonly string[]
  readonly load?: Language
  readonly minutes?: number
  readonly dir: string
}

const RUNS = 3

const WORKLOAD_HELP = `${USUAL.join(' ')}, all of these if none is given; curves (long: its last point stores 50M events)`

/** Below the options in --help. */
const ABOUT = `
W1 append, also over many channels       W2 fan-out               W3 latency at a steady rate
W4 catch-up of stored events             W5 memory of sockets     W6 restart: many events, many channels
W7 clients in long polls                 W8 mixed: thousands of sockets, some cut and resumed, some never reading
W9 over NATS JetStream, beside a nats-server alone and the level engine; two gateways; many channels
curves: append, read and fan-out against the number of channels, of subscribers, of stored events

Each row is measured beside its limit, a program that does the least that could be done, in the same run; ratios to
both limits and other rows are taken within each run. Every delivered event is counted, and a wrong count fails the
bench. Load and receivers are processes of their own. "durable" is what an acknowledged event has survived.
--profile needs nothing; with strace installed it runs each workload once more to count system calls.
`

function parse(): { readonly names: readonly string[]; readonly options: Options } {
  const positive = (text: string): number => {
    const n = Number(text)
    if (!Number.isInteger(n) || n < 1) throw new InvalidArgumentError('takes a whole number from 1')
    return n
  }
  const peersIn = (list: string): readonly string[] => {
    try {
      return peerNames(list)
    } catch (error) {
      throw new InvalidArgumentError((error as Error).message)
    }
  }
  const program = new Command('bench')
    .description('Measures Tidemark and, in the same run, the limits of this machine.')
    .argument('[workloads...]', WORKLOAD_HELP)
    .option('--runs <n>', `runs of each workload; default ${RUNS}, or 1 with --quick or --profile`, positive)
    .option('--json <file>', 'write every figure of every run to this file')
    .option('--quick', 'tiny sizes: shows that all of it works, measures nothing', false)
    .option(
      '--profile',
      'show what the server does: where its CPU time goes, operations of LevelDB and system calls for each event (those by strace, in a second pass), delay of the event loop, heap and garbage collection; its figures are then lower',
      false,
    )
    .option('--rows <text>', 'only rows whose name holds this text, or one of several: a|b')
    .option('--minutes <n>', `how long W8 runs with each kind of publisher; default ${FULL.mixed.minutes}`, positive)
    .option(
      '--peers <list>',
      `measure these too, fetched from apt and npm if need be: ${PEER_NAMES.join(',')}`,
      peersIn,
    )
    .addOption(new Option('--load <language>', 'load programs in C or in Node').choices(['c', 'node']))
    .option('--dir <dir>', 'where logs are written: the file system that is measured', tmpdir())
  program.addHelpText('after', ABOUT)
  program.parse()
  const names = program.args.length > 0 ? program.args.map((name) => name.toUpperCase()) : USUAL
  const unknown = names.find((name) => !(name in WORKLOADS))
  if (unknown !== undefined) program.error(`There is no workload ${unknown}`, { exitCode: 2 })
  return { names, options: program.opts<Options>() }
}

function introduce(machine: Machine, programs: Programs, options: Options): void {
  const { cpu, cores, memoryGiB, kernel, node, fileSystem, load } = machine
  console.log(
    `${cpu}, ${cores} cores, ${memoryGiB} GiB, Linux ${kernel}, Node ${node}, ${fileSystem}, load ${short(load)}`,
  )
  console.log(
    `events of 200 B JSON, all different (deflate makes ${short(100 * compressedShare())} % of them); over loopback`,
  )
  console.log(
    programs.language === 'c'
      ? 'load and receivers: C programs on the same cores'
      : `load and receivers: Node programs (${programs.note}): they take more of the cores than C would, figures are lower`,
  )
  if (fileSystem === 'tmpfs') console.log('WARNING: on tmpfs an fsync costs nothing; use --dir')
  if (load > cores / 2) console.log(`WARNING: this machine is busy (load ${short(load)}): trust ratios, not figures`)
  if (options.quick) console.log('QUICK: sizes are tiny, no figure means anything')
  console.log()
}

/** The peers that were asked for; those that can't be had are named, and the others measured. */
async function peersOf({ peers: names = [] }: Options, programs: Programs): Promise<readonly Peer[]> {
  if (names.length === 0) return []
  if (programs.language !== 'c') throw new Error(`--peers needs the load programs in C (${programs.note})`)
  const { peers, missing } = await preparePeers(names)
  for (const text of missing) console.log(`MISSING PEER  ${text}`)
  return peers
}

/** All runs of one workload; figures appear on stderr as they come. */
async function measure(name: string, workload: Workload, lab: Lab, runs: number): Promise<Row[]> {
  const all: Measure[][] = []
  for (let run = 1; run <= runs; run++) {
    const measures: Measure[] = []
    for await (const measure of workload.run(lab)) {
      measures.push(measure)
      console.error(`${name} ${run}/${runs}  ${measure.name}: ${short(measure.figure)} ${measure.unit}`)
    }
    all.push(measures)
  }
  if (lab.traces) {
    // Once more for the system calls; strace makes everything slow, so that only what was counted is kept.
    lab.tracing = true
    for await (const _ of workload.run(lab));
    lab.tracing = false
  }
  return rowsOf(all)
}

async function main(names: readonly string[], options: Options, dir: string): Promise<number> {
  const chosen = options.quick ? QUICK : FULL
  const { minutes = chosen.mixed.minutes } = options
  const scale = { ...chosen, mixed: { ...chosen.mixed, minutes } }
  const runs = options.runs ?? (options.quick || options.profile ? 1 : RUNS)
  const programs = preparePrograms(options.load)
  const peers = await peersOf(options, programs)
  const machine = describeMachine(dir)
  const { profile, rows: wanted, quick } = options
  const lab = new Lab({ dir, scale, programs, profile, share: quick && !profile, rows: wanted, peers })
  introduce(machine, programs, options)
  const results: object[] = []
  const wrong: string[] = []
  for (const name of names) {
    const workload = WORKLOADS[name]!
    const before = cpuTicks()
    const rows = await measure(name, workload, lab, runs)
    for (const text of lab.missing) console.log(`MISSING PEER  ${name}: ${text}\n`)
    lab.missing.clear()
    if (rows.length === 0) continue
    const stolen = stolenShare(before, cpuTicks())
    console.log(tableOf(workload.title(lab), rows))
    console.log(stolen === undefined ? '' : `  CPU taken by other guests meanwhile: ${short(stolen)} %\n`)
    for (const { row, lines } of lab.profiles.splice(0)) console.log([`  ${row}`, ...lines, ''].join('\n    '))
    results.push({ workload: name, title: workload.title(lab), stolenPercent: stolen, rows })
    for (const text of lab.failures.splice(0)) console.log(`  PEER FAILED  ${text}\n`)
    for (const text of wrongCounts(rows, true)) console.log(`  a peer's count is wrong: ${text}\n`)
    wrong.push(...wrongCounts(rows).map((text) => `${name} ${text}`))
  }
  if (options.json !== undefined) {
    const about = { at: new Date().toISOString(), machine, language: programs.language, runs, quick: options.quick }
    writeFileSync(options.json, `${JSON.stringify({ ...about, scale, results }, null, 2)}\n`)
  }
  for (const text of wrong) console.log(`WRONG COUNT  ${text}`)
  return wrong.length > 0 ? 1 : 0
}

const { names, options } = parse()
mkdirSync(options.dir, { recursive: true })
const dir = mkdtempSync(join(options.dir, 'tidemark-bench-'))
const cleanUp = async (): Promise<void> => {
  await stopAll()
  rmSync(dir, { recursive: true, force: true })
}
// Also when this process ends in a way that nobody foresaw, such as a closed pipe on stdout.
process.on('exit', () => {
  killAll()
  rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
})
let interrupted = false
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => {
    interrupted = true
    cleanUp().then(() => process.exit(signal === 'SIGINT' ? 130 : 143))
  })
try {
  process.exitCode = await main(names, options, dir)
} catch (error) {
  // Interrupted, everything fails because its processes are gone.
  if (!interrupted) {
    console.error(error)
    process.exitCode = 1
  }
} finally {
  if (!interrupted) await cleanUp()
}
