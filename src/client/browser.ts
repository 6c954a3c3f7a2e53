/** What a page gets from /client.js: `import { Tidemark } from 'http://127.0.0.1:7070/client.js'`. */
export { TidemarkError } from '../errors.ts'
export { type Channel, Tidemark } from './client.ts'
