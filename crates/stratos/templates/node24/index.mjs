// Runs once per instance: connections, caches and the like belong here.
const startedAt = new Date().toISOString();

export const handler = async (event, context) => {
  const name = event.name ?? event.queryStringParameters?.name ?? "world";
  return { message: `Hello, ${name}!`, startedAt, requestId: context.awsRequestId };
};
