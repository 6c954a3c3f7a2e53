/** Records what a process asks of the file system, call by call, and what it said in between. */
import { spawn } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { find } from '../machine.ts'

export type Call =
  | { readonly call: 'create' | 'truncate' | 'mkdir' | 'unlink' | 'sync'; readonly path: string }
  | { readonly call: 'rename'; readonly path: string; readonly to: string }
  /** Without an offset: at the end. */
  | { readonly call: 'write'; readonly path: string; readonly bytes: Buffer; readonly offset?: number }
  | { readonly call: 'say'; readonly line: string }

const CALLS =
  'openat,creat,open,mkdir,mkdirat,write,pwrite64,writev,pwritev,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,ftruncate,truncate'

/** Strace of every thread. */
export const straceOf = (...options: string[]): string[] => [find('strace')!, '-f', '-qq', ...options]

/**
 * What a child says on stdout until it ends, line by line; a last line without an end was not said. Its pool has one
 * thread: strace counts calls by thread.
 */
export function linesOf(
  command: readonly string[],
): Promise<{ lines: string[]; code: number | null; signal: NodeJS.Signals | null }> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, UV_THREADPOOL_SIZE: '1' }
    const child = spawn(command[0]!, command.slice(1), { stdio: ['ignore', 'pipe', 'inherit'], env })
    let text = ''
    child.stdout.setEncoding('utf8').on('data', (chunk) => {
      text += chunk
    })
    child.once('error', reject)
    child.once('close', (code, signal) => resolve({ lines: text.split('\n').slice(0, -1), code, signal }))
  })
}

/** Runs a command to its end and gives its calls on files under `root`, in the order in which they ended. */
export async function record(command: readonly string[], root: string, file: string): Promise<Call[]> {
  const strace = straceOf(
    '--seccomp-bpf',
    '-y',
    '-xx',
    '-s',
    `${1 << 22}`,
    '-e',
    `trace=${CALLS}`,
    '-e',
    'signal=none',
    '-o',
    file,
  )
  const { code } = await linesOf([...strace, ...command])
  if (code !== 0) throw new Error(`The recorded run ended with ${code}`)
  const parser = new Parser(root)
  for (const line of (await readFile(file, 'latin1')).split('\n')) parser.take(line)
  return parser.calls
}

const text = (hex: string): string => bytesOf(hex).toString()
const bytesOf = (hex: string): Buffer => Buffer.from(hex.replaceAll('\\x', ''), 'hex')

class Parser {
  readonly calls: Call[] = []
  readonly #root: string
  readonly #known = new Set<string>()
  readonly #unfinished = new Map<string, string>()
  #said = ''

  constructor(root: string) {
    this.#root = `${root}/`
  }

  take(line: string): void {
    const [, thread, rest] = /^(\d+)\s+(.*)$/.exec(line) ?? []
    if (thread === undefined || rest === undefined || rest.startsWith('+++')) return
    const begun = / ?<unfinished \.\.\.>$/.exec(rest)
    if (begun) {
      this.#unfinished.set(thread, rest.slice(0, begun.index))
      return
    }
    const resumed = /^<\.\.\. \w+ resumed>/.exec(rest)
    const whole = resumed ? `${this.#unfinished.get(thread) ?? ''}${rest.slice(resumed[0].length)}` : rest
    const [, name, args, result] = /^(\w+)\((.*)\)\s+= (-?\d+)/.exec(whole) ?? []
    // A call that failed changed nothing; one without a result was ended by the end of the process.
    if (name !== undefined && Number(result) >= 0) this.#call(name, args!)
  }

  #call(name: string, args: string): void {
    const strings = [...args.matchAll(/"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?/g)]
    if (strings.some(([, , cut]) => cut)) throw new Error('strace cut a string')
    const given = strings.map(([, hex]) => hex!)
    const [, fd, hexPath] = /^(\d+)<([^>]*)>/.exec(args) ?? []
    if (name === 'write' && fd === '1') this.#say(text(given[0]!))
    const path = hexPath?.includes('\\x') ? text(hexPath) : (hexPath ?? text(given[0] ?? ''))
    if (!`${path}/`.startsWith(this.#root)) return
    if (name === 'open' || name === 'openat') this.#open(path, args)
    else if (name === 'fsync' || name === 'fdatasync') this.calls.push({ call: 'sync', path })
    else if (name === 'write') this.calls.push({ call: 'write', path, bytes: bytesOf(given[0]!) })
    else if (name === 'pwrite64') {
      const offset = Number(/(\d+)$/.exec(args)![1])
      this.calls.push({ call: 'write', path, bytes: bytesOf(given[0]!), offset })
    } else if (name === 'mkdir') this.calls.push({ call: 'mkdir', path })
    else if (name === 'unlink') {
      this.#known.delete(path)
      this.calls.push({ call: 'unlink', path })
    } else if (name === 'rename') {
      const to = text(given[1]!)
      this.#known.delete(path)
      this.#known.add(to)
      this.calls.push({ call: 'rename', path, to })
    } else throw new Error(`The recorder does not know ${name}`)
  }

  #open(path: string, args: string): void {
    if (!/O_CREAT|O_TRUNC/.test(args)) return
    if (!this.#known.has(path)) this.calls.push({ call: 'create', path })
    else if (args.includes('O_TRUNC')) this.calls.push({ call: 'truncate', path })
    this.#known.add(path)
  }

  #say(words: string): void {
    const lines = (this.#said + words).split('\n')
    this.#said = lines.pop()!
    for (const line of lines) this.calls.push({ call: 'say', line })
  }
}
