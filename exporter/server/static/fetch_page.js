// Load another page of the exporter.

/** @param {string} address @param {number} [timeout] in milliseconds @returns {Promise<Document>} */
export async function fetchPage(address, timeout = 15000) {
  const response = await fetch(address, { signal: AbortSignal.timeout(timeout) });
  if (!response.ok) throw new Error(String(response.status));
  return new DOMParser().parseFromString(await response.text(), "text/html");
}
