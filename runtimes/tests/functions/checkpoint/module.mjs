import { createServer } from 'node:http';
import app from './app.cjs';

await null;
const server = createServer(app.answer);
server.listen(process.env.PORT);
app.ready();
