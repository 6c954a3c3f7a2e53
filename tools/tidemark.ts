#!/usr/bin/env node
import { runProgram } from './program.ts'
import { ProcessTerminal } from './terminal.ts'

const terminal = new ProcessTerminal()
process.exitCode = await runProgram(process.argv.slice(2), terminal)
terminal.close()
