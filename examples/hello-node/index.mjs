export async function handler(event, context) {
  const name = event?.name ?? 'world';
  console.log(`greeting ${name} (request ${context.awsRequestId})`);
  return { message: `Hello, ${name}!`, runtime: `Node.js ${process.versions.node}` };
}
